//! Data in guest memory that came without a file: it is asked for, and sent, by messages to the client.
//!
//! The queues say what they want of a [`ClientDma`], and hear of the end by a number. Data from the guest is fetched
//! before the backend gets the command; data to the guest is sent when the backend is done with it, and the command
//! completes after that.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Backend, Queues};
use guest_memory::dptr::{self, DptrError};
use guest_memory::{Bounce, BounceBudget, BounceError, GuestMemory, MemView};
use nvme_spec::{Sqe, Status};

/// How many bytes may stand in for the data of admin commands, of which only one is in flight at a time: another may
/// just have been given up.
const ADMIN_BUDGET: u64 = 1 << 20;

/// What to do with memory of the client's: pieces, each with its guest address.
#[derive(Debug, PartialEq, Eq)]
pub enum DmaOperation {
    /// Read so many bytes of each.
    Read(Vec<(u64, u32)>),
    /// Write these bytes to each.
    Write(Vec<(u64, Vec<u8>)>),
}

/// What the client is asked for.
#[derive(Debug)]
pub struct Transfer {
    /// What [`Queues::transferred`] is told when it has ended. Unique in the process.
    pub id: u64,
    /// Its memory: to be held until the end, so that the client does not get it back before.
    pub memory: Arc<GuestMemory>,
    /// What to do.
    pub operation: DmaOperation,
}

/// The way to a client's memory that came without a file.
pub trait ClientDma {
    /// Returns how much may stand in for it.
    fn budget(&self) -> &Arc<BounceBudget>;

    /// Begins a transfer. Its end is told by [`Queues::transferred`], on the same thread, later; or never, if the
    /// client goes before.
    fn begin(&self, transfer: Transfer);

    /// Ends a transfer soon, since nobody waits for what it reads, or is to wait long for what it writes. It may have
    /// ended already.
    fn cancel(&self, id: u64);
}

type TransferEnd = Box<dyn FnOnce(Result<Vec<Vec<u8>>, Status>)>;

/// Who waits for a transfer.
struct Waiter {
    then: TransferEnd,
    writes: bool,
    bytes: u64,
    /// It was cancelled, and this is the status of the command if the data did not go through.
    cancelled: Option<Status>,
}

/// The transfers of a session on one thread.
pub(super) struct ClientTransfers {
    memory: OnceCell<Box<dyn ClientDma>>,
    admin_budget: Arc<BounceBudget>,
    waiters: RefCell<BTreeMap<u64, Waiter>>,
    bytes: Cell<u64>,
}

impl Default for ClientTransfers {
    fn default() -> Self {
        let admin_budget = BounceBudget::new(ADMIN_BUDGET);
        Self { memory: OnceCell::new(), admin_budget, waiters: RefCell::default(), bytes: Cell::new(0) }
    }
}

impl ClientTransfers {
    pub(super) fn set_memory(&self, memory: Box<dyn ClientDma>) {
        // A session has one client, for all its life.
        let _ = self.memory.set(memory);
    }

    /// Returns how much may stand in. Without a way to the client nothing is asked for that is in memory without a
    /// file.
    pub(super) fn budget(&self) -> &Arc<BounceBudget> {
        self.memory.get().map_or(&self.admin_budget, |memory| memory.budget())
    }

    /// Returns a number for a transfer.
    pub(super) fn next_id() -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    /// Fetches the client's pieces of `bounce`; `then` gets them.
    pub(super) fn fetch(&self, id: u64, bounce: &Bounce, then: TransferEnd) {
        self.begin(id, bounce, DmaOperation::Read(bounce.client_pieces().to_vec()), then);
    }

    /// Sends the client's pieces of `bounce`; `then` gets nothing.
    pub(super) fn send(&self, id: u64, bounce: &Bounce, then: TransferEnd) {
        match bounce.collect() {
            Ok(data) => self.begin(id, bounce, DmaOperation::Write(data), then),
            Err(status) => then(Err(status)),
        }
    }

    fn begin(&self, id: u64, bounce: &Bounce, operation: DmaOperation, then: TransferEnd) {
        if bounce.client_pieces().is_empty() {
            // The client has given a file for the memory while the command waited for room.
            return then(Ok(Vec::new()));
        }
        let Some(memory) = self.memory.get() else { return then(Err(Status::DATA_TRANSFER_ERROR)) };
        let writes = matches!(operation, DmaOperation::Write(_));
        self.waiters.borrow_mut().insert(id, Waiter { then, writes, bytes: bounce.bytes(), cancelled: None });
        memory.begin(Transfer { id, memory: bounce.memory(), operation });
    }

    /// A transfer has ended. One that nobody waits for is ignored.
    fn ended(&self, id: u64, result: Result<Vec<Vec<u8>>, i32>) {
        let waiter = self.waiters.borrow_mut().remove(&id);
        let Some(waiter) = waiter else { return };
        if result.is_ok() {
            self.bytes.set(self.bytes.get().wrapping_add(waiter.bytes));
        }
        (waiter.then)(result.map_err(|_| waiter.cancelled.unwrap_or(Status::DATA_TRANSFER_ERROR)));
    }

    /// Ends a transfer soon. Nobody waits for what is read; what is being written may still reach the guest's memory,
    /// and so its end is awaited: the guest must not get its buffer back before.
    pub(super) fn cancel(&self, id: u64, status: Status) {
        let mut waiters = self.waiters.borrow_mut();
        let Some(waiter) = waiters.get_mut(&id) else { return };
        let first = waiter.cancelled.replace(status).is_none();
        let reader = if waiter.writes { None } else { waiters.remove(&id) };
        drop(waiters);
        if first && let Some(memory) = self.memory.get() {
            memory.cancel(id);
        }
        if let Some(reader) = reader {
            (reader.then)(Err(status));
        }
    }

    /// Ends all transfers soon.
    pub(super) fn cancel_all(&self, status: Status) {
        let ids: Vec<u64> = self.waiters.borrow().keys().copied().collect();
        for id in ids {
            self.cancel(id, status);
        }
    }

    /// The client is gone: nothing is waited for.
    pub(super) fn give_up_all(&self, status: Status) {
        let waiters = self.waiters.take();
        for waiter in waiters.into_values() {
            (waiter.then)(Err(status));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiters.borrow().is_empty()
    }

    pub(super) fn take_bytes(&self) -> u64 {
        self.bytes.take()
    }
}

impl fmt::Debug for ClientTransfers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTransfers").field("waiters", &self.waiters.borrow().len()).finish_non_exhaustive()
    }
}

/// Returns a command's data that was fetched, pieces of all kinds together. `len` is what the pieces have.
pub(super) fn gather(view: &MemView, pieces: &[(u64, u32)]) -> Result<Vec<u8>, Status> {
    let mut data = Vec::new();
    for &(gpa, len) in pieces {
        let begin = data.len();
        data.resize(begin + len as usize, 0);
        let into = data.get_mut(begin..).unwrap_or_default();
        view.read(gpa, into).map_err(|fault| Status::from(DptrError::from(fault)))?;
    }
    Ok(data)
}

/// Puts a command's data where it goes; less than the pieces have room for is no error.
fn scatter(view: &MemView, pieces: &[(u64, u32)], data: &[u8]) -> Result<(), Status> {
    let mut rest = data;
    for &(gpa, len) in pieces {
        let (now, later) = rest.split_at(rest.len().min(len as usize));
        view.write(gpa, now).map_err(|fault| Status::from(DptrError::from(fault)))?;
        rest = later;
    }
    Ok(())
}

/// What an admin command waits for.
impl<B: Backend> Queues<B> {
    /// Has the way to the client's memory that came without a file. Without it commands with data there fail.
    pub fn set_client_dma(&self, memory: Box<dyn ClientDma>) {
        self.context().client_transfers().set_memory(memory);
    }

    /// A transfer that was asked of the [`ClientDma`] has ended: with what was read, a buffer for each piece (none for
    /// a write), or with an errno.
    pub fn transferred(&self, id: u64, result: Result<Vec<Vec<u8>>, i32>) {
        self.context().client_transfers().ended(id, result);
    }

    /// The client is gone: no transfer of it is waited for.
    pub fn give_up_transfers(&self) {
        self.context().client_transfers().give_up_all(Status::DATA_TRANSFER_ERROR);
    }

    /// Returns how many bytes have been moved by messages since the last call.
    #[must_use]
    pub fn take_bounced(&self) -> u64 {
        self.context().client_transfers().take_bytes()
    }

    /// Fetches `len` bytes of an admin command's data, of which a part is in memory without a file. One such command
    /// may be in flight at a time.
    pub fn fetch_data(&self, sqe: &Sqe, len: usize, then: impl FnOnce(Result<Vec<u8>, Status>) + 'static) {
        let (bounce, pieces) = match self.bounce(sqe, len, false) {
            Ok(bounced) => bounced,
            Err(status) => return then(Err(status)),
        };
        let client_transfers = self.context().client_transfers();
        let fetched = bounce.clone();
        let fill = move |result: Result<Vec<Vec<u8>>, Status>| {
            let filled = result.and_then(|data| fetched.fill(&data));
            then(filled.and_then(|()| gather(fetched.view(), &pieces)));
        };
        client_transfers.fetch(ClientTransfers::next_id(), &bounce, Box::new(fill));
    }

    /// Gives the host `data` as an admin command's data, likewise.
    pub fn send_data(&self, sqe: &Sqe, data: &[u8], then: impl FnOnce(Result<(), Status>) + 'static) {
        let bounced = self.bounce(sqe, data.len(), true).and_then(|(bounce, pieces)| {
            scatter(bounce.view(), &pieces, data)?;
            Ok(bounce)
        });
        match bounced {
            Ok(bounce) => {
                let sent = move |result: Result<Vec<Vec<u8>>, Status>| then(result.map(drop));
                self.context().client_transfers().send(ClientTransfers::next_id(), &bounce, Box::new(sent));
            }
            Err(status) => then(Err(status)),
        }
    }

    fn bounce(&self, sqe: &Sqe, len: usize, to_guest: bool) -> Result<(Bounce, Vec<(u64, u32)>), Status> {
        let len = u32::try_from(len).map_err(|_| Status::INTERNAL_ERROR)?;
        let view = self.view();
        let mut pieces = Vec::new();
        dptr::walk(&*view, sqe, len, &mut pieces)?;
        let budget = &self.context().client_transfers().admin_budget;
        let bounce = Bounce::new(view.memory(), &pieces, to_guest, budget).map_err(|error| match error {
            BounceError::NoRoom => Status::INTERNAL_ERROR,
            BounceError::Invalid(status) => status,
        })?;
        Ok((bounce, pieces))
    }
}

#[cfg(test)]
mod tests;
