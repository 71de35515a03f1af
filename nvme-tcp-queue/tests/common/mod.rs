//! A host that waits, around queues that do not: as much as a test needs.
#![expect(unsafe_code, reason = "the memory of commands is known by its addresses")]

#[path = "../../../nvme-host/tests/common/setup.rs"]
mod setup;

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use libc::iovec;
use nvme_host::controller::{AdminCommand, AdminData};
use nvme_host::tcp::{self, Digests, Slot};
use nvme_spec::fabrics::ConnectData;
use nvme_spec::tcp::ADMIN_IN_CAPSULE_DATA;
use nvme_spec::{Cqe, Sqe};
use nvme_tcp_queue::{CommandMemory, Ended, Options, Queue, QueueError};
use zerocopy::{FromBytes, IntoBytes};

pub(crate) use self::setup::Outcome;
use self::setup::set_up;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Memory in pieces.
#[derive(Debug, Clone)]
pub(crate) struct Memory {
    bytes: Rc<[Cell<u8>]>,
    pieces: Rc<[iovec]>,
}

// SAFETY: the bytes are cells that live as long as the value, and the pieces, which never change, lie within them. No
// reference leads to what is in a cell.
unsafe impl CommandMemory for Memory {
    fn pieces(&self) -> &[iovec] {
        &self.pieces
    }
}

impl Memory {
    pub(crate) fn none() -> Self {
        Self::of(&[], &[])
    }

    /// Returns memory that holds these bytes, in pieces of so many bytes in turn; in one piece, if none are given.
    pub(crate) fn of(bytes: &[u8], sizes: &[usize]) -> Self {
        let bytes: Rc<[Cell<u8>]> = bytes.iter().copied().map(Cell::new).collect();
        let start = bytes.as_ptr().cast_mut().cast::<u8>();
        let (mut pieces, mut begin) = (Vec::new(), 0);
        let mut sizes = sizes.iter().cycle();
        while begin < bytes.len() {
            let len = sizes.next().copied().unwrap_or(bytes.len()).min(bytes.len() - begin);
            pieces.push(iovec { iov_base: start.wrapping_add(begin).cast(), iov_len: len });
            begin += len;
        }
        Self { bytes, pieces: pieces.into() }
    }

    pub(crate) fn to_vec(&self) -> Vec<u8> {
        self.bytes.iter().map(Cell::get).collect()
    }
}

/// Returns options of a queue, with deadlines in milliseconds.
pub(crate) fn options(depth: u16, digests: Digests, in_capsule_data: u32) -> Options {
    let wire = tcp::Options { depth, digests, max_r2t: 4, in_capsule_data };
    Options { wire, connect_ticks: 30_000, initialize_ticks: 30_000 }
}

/// A queue, and what has ended on it.
pub(crate) struct Rig {
    pub(crate) queue: Queue<Memory>,
    begin: Instant,
    pub(crate) ended: Vec<Ended<Memory>>,
}

impl Rig {
    pub(crate) fn of(queue: Queue<Memory>) -> Self {
        Self { queue, begin: Instant::now(), ended: Vec::new() }
    }

    pub(crate) fn connect(address: SocketAddr, options: Options) -> Result<Self, QueueError> {
        let mut rig = Self::of(Queue::connect(address, None, options, 0)?);
        rig.wait(|rig| rig.queue.parameters().is_some())?;
        Ok(rig)
    }

    /// Polls until that is so.
    pub(crate) fn wait(&mut self, is_so: impl Fn(&Self) -> bool) -> Result<(), QueueError> {
        while !is_so(self) {
            assert!(self.begin.elapsed() < PATIENCE, "it takes too long");
            let now = u64::try_from(self.begin.elapsed().as_millis()).expect("a short time");
            let ended = &mut self.ended;
            if !self.queue.poll(now, |command| ended.push(command))? {
                thread::yield_now();
            }
        }
        Ok(())
    }

    /// Waits for the end of a command.
    pub(crate) fn finish(&mut self, slot: Slot) -> Result<(Outcome, Memory), QueueError> {
        self.wait(|rig| rig.ended.iter().any(|ended| ended.slot == slot))?;
        let at = self.ended.iter().position(|ended| ended.slot == slot).expect("it has ended");
        let Ended { memory, result, .. } = self.ended.swap_remove(at);
        Ok((result, memory))
    }

    pub(crate) fn read(&mut self, sqe: Sqe, memory: &Memory) -> Slot {
        self.queue.submit_read(sqe, memory.clone()).map_err(|refused| refused.reason).expect("there is room")
    }

    pub(crate) fn write(&mut self, sqe: Sqe, memory: &Memory) -> Slot {
        self.queue.submit_write(sqe, memory.clone()).map_err(|refused| refused.reason).expect("there is room")
    }

    /// Carries out a command that succeeds.
    pub(crate) fn succeed(&mut self, slot: Slot) -> Cqe {
        let (outcome, _) = self.finish(slot).expect("the connection goes on");
        let cqe = outcome.expect("all was transferred");
        assert!(cqe.status.is_success(), "{}", cqe.status);
        cqe
    }

    fn admin(&mut self, command: &AdminCommand) -> (Outcome, Vec<u8>) {
        let memory = match &command.data {
            AdminData::None => Memory::none(),
            AdminData::ToHost(len) => Memory::of(&vec![0; *len as usize], &[]),
            AdminData::FromHost(data) => Memory::of(data, &[]),
        };
        let slot = match command.data {
            AdminData::None => self.queue.submit(command.sqe, memory).map_err(|refused| refused.reason),
            AdminData::ToHost(_) => Ok(self.read(command.sqe, &memory)),
            AdminData::FromHost(_) => Ok(self.write(command.sqe, &memory)),
        };
        let (outcome, memory) = self.finish(slot.expect("there is room")).expect("the connection goes on");
        (outcome, memory.to_vec())
    }
}

/// The queues of a controller.
pub(crate) struct Host {
    /// Keeps the controller.
    pub(crate) admin: Rig,
    pub(crate) io: Rig,
}

impl Host {
    /// Sets a controller up, with one I/O queue over a connection that `connect` makes.
    pub(crate) fn with(
        address: SocketAddr,
        nqn: &str,
        (depth, digests): (u16, Digests),
        connect: impl FnOnce(Options) -> Queue<Memory>,
    ) -> Self {
        let mut admin = Rig::connect(address, options(31, digests, ADMIN_IN_CAPSULE_DATA)).expect("it is there");
        let (controller, connect_data) = set_up(nqn, |command| Ok(admin.admin(command))).expect("the target is right");
        let mut io = Rig::of(connect(options(depth, digests, controller.in_capsule_data)));
        io.wait(|rig| rig.queue.parameters().is_some()).expect("the target is right");
        let mut data = ConnectData::read_from_bytes(&connect_data).expect("it is whole");
        data.cntlid = controller.cntlid;
        let slot = io.write(Sqe::connect(1, depth, 0), &Memory::of(data.as_bytes(), &[]));
        io.succeed(slot);
        Self { admin, io }
    }

    pub(crate) fn connect(address: SocketAddr, nqn: &str, depth: u16, digests: Digests) -> Self {
        Self::with(address, nqn, (depth, digests), |options| {
            Queue::connect(address, None, options, 0).expect("there are sockets")
        })
    }
}
