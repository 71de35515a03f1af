//! A reactor's poll group, which drives the queue pairs of all pools there.

use std::rc::Rc;
use std::time::Duration;

use spdk::Errno;
use spdk::io_device::ChannelFactory;
use spdk::nvme::PollGroup;
use spdk::poller::{Poll, Poller};

use super::overflows::Overflows;

/// The I/O device whose channels are the reactors' poll groups: one for all pools, so that one system call serves all
/// connections of a reactor.
#[derive(Debug)]
pub(crate) struct Reactors;

/// A reactor's poll group and the poller that drives it.
#[derive(Debug)]
pub(crate) struct Reactor {
    pub(super) group: Rc<PollGroup>,
    pub(super) overflows: Rc<Overflows>,
    _poller: Poller,
}

impl ChannelFactory for Reactors {
    type Channel = Reactor;

    fn create(&self) -> Result<Reactor, Errno> {
        let group = Rc::new(PollGroup::new()?);
        let overflows = Rc::new(Overflows::default());
        let (in_use, behind) = (Rc::clone(&group), Rc::clone(&overflows));
        let poll = move || {
            let done = in_use.poll();
            behind.send();
            if done > 0 { Poll::Busy } else { Poll::Idle }
        };
        let poller = Poller::register("courier_io", Duration::ZERO, poll)?;
        Ok(Reactor { group, overflows, _poller: poller })
    }
}
