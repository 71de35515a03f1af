//! How a test's host sets a controller up, whatever carries its commands out.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use nvme_host::controller::{AdminCommand, AdminData, Controller, Setup, SetupOptions, Step};
use nvme_host::tcp::TransferError;
use nvme_spec::Cqe;
use nvme_spec::fabrics::ANY_CONTROLLER;
use nvme_spec::feature::AsyncEventConfiguration;

/// How a command ended.
pub(crate) type Outcome = Result<Cqe, TransferError>;

/// How long a step may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Sets up a controller of a subsystem, with one I/O queue. `carry_out` returns how a command ended, and its data.
/// Returns the controller, and the data of Connect.
pub(crate) fn set_up(
    nqn: &str,
    mut carry_out: impl FnMut(&AdminCommand) -> io::Result<(Outcome, Vec<u8>)>,
) -> io::Result<(Controller, Vec<u8>)> {
    let mut setup = Setup::new(SetupOptions {
        subnqn: nqn.to_owned(),
        hostnqn: "nqn.2014-08.org.nvmexpress:uuid:07070707-0707-0707-0707-070707070707".to_owned(),
        hostid: [7; 16],
        cntlid: ANY_CONTROLLER,
        admin_sqsize: 31,
        keep_alive: Duration::from_secs(60),
        io_queues: 1,
        events: AsyncEventConfiguration::new().with_nan(true).with_anacn(true),
        command_timeout: LIMIT,
        max_ready_timeout: LIMIT,
    });
    let (begin, mut connect) = (Instant::now(), Vec::new());
    loop {
        match setup.poll(begin.elapsed()).map_err(io::Error::other)? {
            Step::Done(controller) => return Ok((controller, connect)),
            Step::Wait(until) => thread::sleep(until.saturating_sub(begin.elapsed())),
            Step::Send(command) => {
                if let AdminData::FromHost(data) = &command.data {
                    connect = data.to_vec();
                }
                let (outcome, data) = carry_out(&command)?;
                setup.completed(begin.elapsed(), outcome, &data).map_err(io::Error::other)?;
            }
        }
    }
}
