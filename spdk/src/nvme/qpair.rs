//! Poll groups and I/O queue pairs: what a thread needs to do I/O on controllers.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::rc::Rc;

use nvme_spec::{Cqe, Sqe};
use spdk_sys as sys;

use super::command::{done, next_sge, reset_sgl};
use super::ctrlr::with_callback;
use super::digest::{Digests, HasDigests};
use super::entry::as_cmd;
use super::users::Use;
use super::{Command, CtrlrRef, Rejected};
use crate::thread::{NotSend, on_spdk_thread};
use crate::{Errno, thread};

/// What happened to a queue pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QpairEvent {
    /// It takes commands now.
    Connected,
    /// It could not be connected: the target refused it, or did not answer. The queue pair is of no further use.
    Refused,
    /// It takes no commands any more. Those that were in flight have been completed as
    /// [lost with their queue](super::is_queue_lost). The queue pair is of no further use.
    Disconnected,
}

/// What has become of the commands of a queue pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// How many have ended, modulo 2^64.
    pub answered: u64,
    /// How many have not.
    pub pending: u32,
}

/// A thread's queue pairs, polled together.
pub struct PollGroup(Rc<Group>);

struct Group {
    raw: *mut sys::spdk_nvme_poll_group,
    qpairs: RefCell<Vec<Rc<Inner>>>,
    /// How many of them are not connected yet.
    connecting: Cell<usize>,
    /// It is being polled.
    polling: Cell<bool>,
    digests: Digests,
}

impl HasDigests for Group {
    fn digests(&self) -> &Digests {
        &self.digests
    }
}

type QpairEvents = Box<dyn Fn(QpairEvent)>;

struct Inner {
    /// Null once it is freed.
    raw: Cell<*mut sys::spdk_nvme_qpair>,
    /// The same while it takes commands, null otherwise: the one thing that the hot path asks.
    live: Cell<*mut sys::spdk_nvme_qpair>,
    /// Counted in its group as not connected yet.
    connecting: Cell<bool>,
    /// Told to disconnect.
    closing: Cell<bool>,
    /// The other side ended its connection.
    ended_by_peer: Cell<bool>,
    /// How many commands it has taken, modulo 2^64.
    submitted: Cell<u64>,
    ctrlr: CtrlrRef,
    /// The group that it is in, as long as it is: only there it goes, with what SPDK has of both.
    group: RefCell<Option<Rc<Group>>>,
    /// The queue pair is a user of its controller until it is freed.
    in_use: Cell<Option<Use>>,
    /// The most commands of its user that it has at a time.
    most: u32,
    /// It has room at least until it has [taken](Self::submitted) so many, as far as that was looked at.
    room_until: Cell<u64>,
    events: RefCell<Option<QpairEvents>>,
    /// What must outlive the queue pair.
    keep: RefCell<Option<Box<dyn Any>>>,
}

impl PollGroup {
    /// Returns a group for this thread.
    ///
    /// # Errors
    /// `PERM` off any SPDK thread, `NOMEM` when SPDK cannot make it.
    pub fn new() -> Result<Self, Errno> {
        if !on_spdk_thread() {
            return Err(Errno::PERM);
        }
        let mut group = Rc::new(Group {
            raw: ptr::null_mut(),
            qpairs: RefCell::new(Vec::new()),
            connecting: Cell::new(0),
            polling: Cell::new(false),
            digests: Digests::default(),
        });
        let ctx = Rc::as_ptr(&group).cast_mut().cast();
        let mut functions = Digests::functions::<Group>();
        // SAFETY: the context is the group, which outlives SPDK's, see its `drop`; SPDK copies the table.
        let raw = unsafe { sys::spdk_nvme_poll_group_create(ctx, &raw mut functions) };
        if raw.is_null() {
            return Err(Errno::NOMEM);
        }
        // The address stays the same: this is the only reference.
        Rc::get_mut(&mut group).ok_or(Errno::INVAL)?.raw = raw;
        Ok(Self(group))
    }

    /// Makes a queue pair and begins to connect it. `events` hears of it on this thread, from within
    /// [`poll`](Self::poll).
    ///
    /// # Errors
    /// `BUSY` while the controller is being connected again, `NXIO` when it takes no more queue pairs or the connection
    /// could not be begun.
    pub fn connect(&self, ctrlr: &CtrlrRef, events: impl Fn(QpairEvent) + 'static) -> Result<QueuePair, Errno> {
        let in_use = Cell::new(Some(ctrlr.enter()?));
        let mut opts = sys::spdk_nvme_io_qpair_opts::default();
        // SAFETY: `opts` is as large as it is said to be; the controller is live while it is referred to.
        let raw = unsafe {
            sys::spdk_nvme_ctrlr_get_default_io_qpair_opts(ctrlr.as_ptr(), &raw mut opts, size_of_val(&opts));
            opts.create_only = true;
            opts.async_mode = true;
            // RDMA: what is given within one round of the reactor is posted as one list.
            opts.__bindgen_anon_1.delay_cmd_submit = true;
            sys::spdk_nvme_ctrlr_alloc_io_qpair(ctrlr.as_ptr(), &raw const opts, size_of_val(&opts))
        };
        if raw.is_null() {
            return Err(Errno::NXIO);
        }
        // SAFETY: the queue pair is new and this thread's; it is freed here if it cannot be used.
        unsafe {
            if sys::spdk_nvme_poll_group_add(self.0.raw, raw) != 0
                || sys::spdk_nvme_ctrlr_connect_io_qpair(ctrlr.as_ptr(), raw) != 0
            {
                sys::spdk_nvme_ctrlr_free_io_qpair(raw);
                return Err(Errno::NXIO);
            }
        }
        let inner = Rc::new(Inner {
            raw: Cell::new(raw),
            live: Cell::new(ptr::null_mut()),
            connecting: Cell::new(true),
            closing: Cell::new(false),
            ended_by_peer: Cell::new(false),
            submitted: Cell::new(0),
            ctrlr: ctrlr.clone(),
            group: RefCell::new(Some(Rc::clone(&self.0))),
            in_use,
            most: most_commands(opts.io_queue_size, opts.io_queue_requests),
            room_until: Cell::new(0),
            events: RefCell::new(Some(Box::new(events))),
            keep: RefCell::new(None),
        });
        self.0.qpairs.borrow_mut().push(Rc::clone(&inner));
        self.0.connecting.set(self.0.connecting.get() + 1);
        Ok(QueuePair { inner, _stays: PhantomData })
    }

    /// Sends what waits, completes what has come, on all queue pairs. The number of completions. A call from within
    /// another does nothing.
    #[inline]
    pub fn poll(&self) -> usize {
        // SPDK walks over the queue pairs, of which an inner call could free the next.
        if self.0.polling.replace(true) {
            return 0;
        }
        // SAFETY: the group is live and this thread's.
        let count = unsafe { sys::spdk_nvme_poll_group_process_completions(self.0.raw, 0, Some(disconnected)) };
        if self.0.connecting.get() > 0 {
            self.0.note_connected();
        }
        self.0.polling.set(false);
        usize::try_from(count).unwrap_or(0)
    }
}

/// Returns the most commands of its user that a queue pair takes, whose queue has so many entries, one of which is
/// never used. One of the others is left for [`QueuePair::probe`], with a request: commands that take long would
/// otherwise leave no way to ask whether the controller lives. In a queue where that would not leave two for a fused
/// pair there is none.
fn most_commands(queue_size: u32, requests: u32) -> u32 {
    let commands = queue_size.saturating_sub(1).min(requests);
    if commands > 2 { commands - 1 } else { requests }
}

impl Group {
    #[cold]
    fn note_connected(&self) {
        let connected: Vec<_> = self
            .qpairs
            .borrow()
            .iter()
            // SAFETY: a queue pair in the list is not freed yet.
            .filter(|inner| inner.connecting.get() && unsafe { sys::spdk_nvme_qpair_is_connected(inner.raw.get()) })
            .cloned()
            .collect();
        for inner in connected {
            self.no_longer_connecting(&inner);
            if !inner.closing.get() {
                inner.live.set(inner.raw.get());
                inner.tell(QpairEvent::Connected);
            }
        }
    }

    /// Returns whether it was connecting.
    fn no_longer_connecting(&self, inner: &Inner) -> bool {
        let was_connecting = inner.connecting.replace(false);
        if was_connecting {
            self.connecting.set(self.connecting.get().saturating_sub(1));
        }
        was_connecting
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.raw.is_null() {
            return;
        }
        // SAFETY: each queue pair holds the group until it is freed, so that it has none any more.
        let rc = unsafe { sys::spdk_nvme_poll_group_destroy(self.raw) };
        if rc != 0 {
            log::error!("a poll group could not be destroyed: {}", -rc);
        }
    }
}

unsafe extern "C" fn disconnected(qpair: *mut sys::spdk_nvme_qpair, ctx: *mut c_void) {
    // SAFETY: the context is the group, which is being polled.
    let group = unsafe { &*ctx.cast::<Group>() };
    let found = group.qpairs.borrow().iter().position(|inner| inner.raw.get() == qpair);
    let Some(at) = found else { return };
    let inner = group.qpairs.borrow_mut().swap_remove(at);
    // It is being polled, so that this is not the last reference.
    inner.group.take();
    let refused = group.no_longer_connecting(&inner) && !inner.closing.get();
    inner.ended_by_peer.set(inner.is_ended_by_peer());
    inner.live.set(ptr::null_mut());
    inner.raw.set(ptr::null_mut());
    // SAFETY: SPDK allows freeing a queue pair from within this callback.
    unsafe { sys::spdk_nvme_ctrlr_free_io_qpair(qpair) };
    inner.in_use.take();
    inner.tell(if refused { QpairEvent::Refused } else { QpairEvent::Disconnected });
    if let Some(keep) = inner.keep.take() {
        // It may hold the group that is being polled, which must not go before the poll is over.
        if thread::defer(move || drop(keep)).is_err() {
            log::error!("what a queue pair kept could not be let go");
        }
    }
}

/// An I/O queue pair on its thread. Dropping it disconnects it.
pub struct QueuePair {
    inner: Rc<Inner>,
    _stays: NotSend,
}

impl Inner {
    fn tell(&self, event: QpairEvent) {
        let events = self.events.take();
        if let Some(events) = events {
            events(event);
            // The end of a queue pair is told once.
            if event == QpairEvent::Connected {
                self.events.replace(Some(events));
            }
        }
    }

    fn is_ended_by_peer(&self) -> bool {
        let raw = self.raw.get();
        if raw.is_null() || self.closing.get() || self.connecting.get() {
            return false;
        }
        // SAFETY: the queue pair is not freed yet.
        let (connected, reason) =
            unsafe { (sys::spdk_nvme_qpair_is_connected(raw), sys::spdk_nvme_qpair_get_failure_reason(raw)) };
        !connected && self.ctrlr.is_peers_doing(reason)
    }

    fn disconnect(&self) {
        self.live.set(ptr::null_mut());
        let raw = self.raw.get();
        if !self.closing.replace(true) && !raw.is_null() {
            // SAFETY: the queue pair is not freed yet, and this is its thread.
            unsafe { sys::spdk_nvme_ctrlr_disconnect_io_qpair(raw) };
        }
    }
}

impl QueuePair {
    /// Returns one that was never connected, of a controller that nobody asks.
    #[cfg(test)]
    pub(crate) fn unconnected() -> Self {
        let inner = Inner {
            raw: Cell::new(ptr::null_mut()),
            live: Cell::new(ptr::null_mut()),
            connecting: Cell::new(false),
            ended_by_peer: Cell::new(false),
            submitted: Cell::new(0),
            closing: Cell::new(false),
            ctrlr: CtrlrRef::dangling(),
            group: RefCell::new(None),
            in_use: Cell::new(None),
            most: 0,
            room_until: Cell::new(0),
            events: RefCell::new(None),
            keep: RefCell::new(None),
        };
        Self { inner: Rc::new(inner), _stays: PhantomData }
    }

    /// Returns whether it takes commands.
    #[must_use]
    #[inline]
    pub fn is_live(&self) -> bool {
        !self.inner.live.get().is_null()
    }

    /// Returns whether its connection stands. Unlike [`is_live`](Self::is_live) this is exact while commands are
    /// completed because the connection was lost, and not changed by [`stop`](Self::stop).
    #[must_use]
    pub fn is_connected(&self) -> bool {
        let raw = self.inner.raw.get();
        // SAFETY: the queue pair is not freed yet.
        !self.inner.closing.get() && !raw.is_null() && unsafe { sys::spdk_nvme_qpair_is_connected(raw) }
    }

    /// Takes no more commands from now on; those that are in flight may still be completed.
    pub fn stop(&self) {
        self.inner.live.set(ptr::null_mut());
    }

    /// Takes commands again, if its connection stands.
    pub fn resume(&self) {
        if self.is_connected() {
            self.inner.live.set(self.inner.raw.get());
        }
    }

    /// Returns whether the other side ended the connection: it closed it, or said that it does not know it. What this
    /// side gave up is none of that, but retransmissions over RDMA that ran out are: they end the connection for both
    /// sides.
    #[must_use]
    pub fn was_ended_by_peer(&self) -> bool {
        self.inner.ended_by_peer.get() || self.inner.is_ended_by_peer()
    }

    /// Returns whether this side was told to disconnect.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.inner.closing.get()
    }

    /// Returns what has become of the commands that it took.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let raw = self.inner.raw.get();
        // SAFETY: the queue pair is not freed yet, and this is its thread.
        let pending = if raw.is_null() { 0 } else { unsafe { sys::spdk_nvme_qpair_get_num_outstanding_reqs(raw) } };
        Progress { answered: self.inner.submitted.get().wrapping_sub(u64::from(pending)), pending }
    }

    /// Sends a command that every controller answers at once and that touches nothing: a flush of namespace 0, which
    /// does not exist. That it was answered shows in [`progress`](Self::progress). It is also sent while the queue pair
    /// is [stopped](Self::stop).
    ///
    /// # Errors
    /// `NXIO` when its connection does not stand, `NOMEM` when no request is free.
    pub fn probe(&self) -> Result<(), Errno> {
        let qpair = NonNull::new(self.inner.raw.get()).filter(|_| self.is_connected()).ok_or(Errno::NXIO)?;
        let sqe = Sqe::flush(0);
        with_callback(drop, |call, ctx| {
            let ctrlr = self.inner.ctrlr.as_ptr();
            // SAFETY: the queue pair is not freed yet, so that its controller lives, and this is its thread; there is
            // no data.
            unsafe {
                sys::spdk_nvme_ctrlr_cmd_io_raw(ctrlr, qpair.as_ptr(), as_cmd(&sqe), ptr::null_mut(), 0, call, ctx)
            }
        })?;
        self.inner.submitted.set(self.inner.submitted.get().wrapping_add(1));
        Ok(())
    }

    /// Begins to disconnect; [`QpairEvent::Disconnected`] follows, also if it was not connected yet.
    pub fn disconnect(&self) {
        self.inner.disconnect();
    }

    /// Disconnects, with no more events, and drops `keep` once the queue pair is gone.
    pub fn close(self, keep: Box<dyn Any>) {
        self.inner.events.take();
        if !self.inner.raw.get().is_null() {
            self.inner.keep.replace(Some(keep));
        }
    }

    /// Returns how many commands could be given now without one being rejected for want of a request.
    #[must_use]
    pub fn free_requests(&self) -> u32 {
        let raw = self.inner.live.get();
        if raw.is_null() {
            return 0;
        }
        // SAFETY: the queue pair is live, and this is its thread.
        self.inner.most.saturating_sub(unsafe { sys::spdk_nvme_qpair_get_num_outstanding_reqs(raw) })
    }

    /// Looks how many commands it takes now, and returns whether it takes any. What ends later only makes it more.
    #[cold]
    fn find_room(&self) -> bool {
        let free = self.free_requests();
        self.inner.room_until.set(self.inner.submitted.get().saturating_add(free.into()));
        free > 0
    }

    /// Gives a command, with `len` bytes of data that its owner's payload describes. `SECOND` marks the second command
    /// of a fused pair, whose data is the owner's second payload. Metadata in a buffer of its own does not exist over
    /// fabrics.
    ///
    /// # Errors
    /// See [`Rejected`]; the owner comes back.
    #[inline]
    pub(crate) fn submit<C: Command, const SECOND: bool>(
        &self,
        sqe: &Sqe,
        len: u32,
        command: C,
    ) -> Result<(), Rejected<C>> {
        let Some(qpair) = NonNull::new(self.inner.live.get()) else {
            return Err(Rejected { errno: Errno::NXIO, command });
        };
        if self.inner.submitted.get() >= self.inner.room_until.get() && !self.find_room() {
            return Err(Rejected { errno: Errno::NOMEM, command });
        }
        let ctrlr = self.inner.ctrlr.as_ptr();
        let cmd = as_cmd(sqe);
        let raw = command.into_raw();
        let ctx = raw.as_ptr();
        let call = Some(done::<C, SECOND> as unsafe extern "C" fn(*mut c_void, *const sys::spdk_nvme_cpl));
        let flat = if len == 0 {
            Some(ptr::null_mut())
        } else {
            // SAFETY: `raw` was made above.
            unsafe { C::payload(raw, SECOND).as_ref() }.single(len)
        };
        // SAFETY: queue pair and controller are live, this is the queue pair's thread; the payload stays valid until
        // `done`, as `Command` promises.
        let rc = unsafe {
            match flat {
                Some(buffer) => sys::spdk_nvme_ctrlr_cmd_io_raw(ctrlr, qpair.as_ptr(), cmd, buffer, len, call, ctx),
                None => sys::spdk_nvme_ctrlr_cmd_iov_raw_with_md(
                    ctrlr,
                    qpair.as_ptr(),
                    cmd,
                    len,
                    ptr::null_mut(),
                    call,
                    ctx,
                    Some(reset_sgl::<C, SECOND>),
                    Some(next_sge::<C, SECOND>),
                ),
            }
        };
        if rc == 0 {
            self.inner.submitted.set(self.inner.submitted.get().wrapping_add(1));
            return Ok(());
        }
        // SAFETY: SPDK did not take the command, so it is still ours.
        let command = unsafe { C::from_raw(raw) };
        Err(Rejected { errno: Errno::check(rc).err().unwrap_or(Errno::IO), command })
    }

    /// Asks the controller to abort what `owner` has in flight here. `done` is called on the thread that owns the
    /// controller.
    ///
    /// # Errors
    /// `NOENT` when there is no such command here, `NXIO` when the queue pair is not connected.
    pub(crate) fn abort<F>(&self, owner: NonNull<c_void>, done: F) -> Result<(), Errno>
    where
        F: FnOnce(Cqe) + Send + 'static,
    {
        let raw = self.inner.live.get();
        if raw.is_null() {
            return Err(Errno::NXIO);
        }
        self.inner.ctrlr.abort(raw, owner, done)
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        self.inner.disconnect();
    }
}

impl Drop for PollGroup {
    fn drop(&mut self) {
        if !self.0.qpairs.borrow().is_empty() {
            log::error!(
                "a poll group was dropped before its queue pairs, which stay as they are, and so does their controller"
            );
        }
    }
}

impl std::fmt::Debug for PollGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PollGroup").field("qpairs", &self.0.qpairs.borrow().len()).finish()
    }
}

impl std::fmt::Debug for QueuePair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueuePair")
            .field("raw", &self.inner.raw.get())
            .field("live", &self.is_live())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_has_room_for_a_probe_if_it_has_room_for_a_fused_pair_beside_it() {
        assert_eq!([4, 16, 128].map(|size| most_commands(size, 512)), [2, 14, 126]);
        assert_eq!((most_commands(16, 16), most_commands(64, 16)), (14, 15), "the request is kept as well");
        assert_eq!((most_commands(2, 2), most_commands(3, 3), most_commands(3, 8)), (2, 3, 8));
    }

    #[test]
    fn a_group_that_is_being_polled_is_not_polled_from_within() {
        let group = PollGroup(Rc::new(Group {
            raw: ptr::null_mut(),
            qpairs: RefCell::new(Vec::new()),
            connecting: Cell::new(0),
            polling: Cell::new(true),
            digests: Digests::default(),
        }));
        // SPDK would follow the null pointer.
        assert_eq!(group.poll(), 0);
    }
}
