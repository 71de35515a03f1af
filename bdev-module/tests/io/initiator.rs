//! The initiator's own types, in orders that a pool does not use them in.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use serial_test::serial;
use spdk::nvme::{AddressFamily, Connect, Ctrlr, CtrlrOptions, PollGroup, QueuePair, TransportId, TransportType};
use spdk::poller::{Poll, Poller};

use crate::common::harness::from_app;
use crate::common::rig;
use crate::common::target::NQN_SMALL;

/// What the test has come to.
enum Step {
    Connecting(Connect),
    Queueing(Ctrlr, PollGroup, QueuePair),
    Done,
}

#[test]
#[serial]
fn a_queue_pair_that_outlives_its_poll_group_keeps_its_controller() {
    let port = rig().target.port().to_string();
    let kept = from_app(move |tell| {
        let trid = TransportId::new(TransportType::Tcp, AddressFamily::Ipv4, "127.0.0.1", &port, NQN_SMALL);
        // Another host than the pools', which have a controller of that subsystem.
        let hostnqn = Some("nqn.2024-01.com.example:another-host".to_owned());
        let options = CtrlrOptions { hostnqn, ..CtrlrOptions::default() };
        let mut step = Step::Connecting(Connect::start(&trid.expect("it fits"), &options).expect("it begins"));
        let own = Rc::new(RefCell::new(None));
        let held = Rc::clone(&own);
        let poll = move || {
            step = match std::mem::replace(&mut step, Step::Done) {
                Step::Connecting(mut connect) => match connect.poll() {
                    None => Step::Connecting(connect),
                    Some(outcome) => {
                        let (ctrlr, group) = (outcome.expect("the target answers"), PollGroup::new().expect("a group"));
                        let qpair = group.connect(ctrlr.shared(), |_| ()).expect("a queue pair");
                        Step::Queueing(ctrlr, group, qpair)
                    }
                },
                Step::Queueing(ctrlr, group, qpair) if !qpair.is_live() => {
                    group.poll();
                    ctrlr.poll_admin().expect("it is connected");
                    Step::Queueing(ctrlr, group, qpair)
                }
                Step::Queueing(ctrlr, group, qpair) => {
                    drop(group);
                    drop(qpair);
                    // SPDK still has the queue pair, and would look at a controller that is gone.
                    tell.send(ctrlr.detach().is_err()).expect("somebody waits");
                    held.take();
                    Step::Done
                }
                Step::Done => Step::Done,
            };
            Poll::Busy
        };
        own.replace(Some(Poller::register("initiator", Duration::from_millis(1), poll).expect("a poller")));
    });
    assert!(kept);
}
