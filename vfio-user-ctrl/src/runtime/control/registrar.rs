//! Where devices are told of clients' memory.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::worker::Worker;
use crate::runtime::messages::{ControlHandle, ControlMessage};
use crate::runtime::session::{Ctrl, Session};
use guest_memory::{Region, Registration};

/// So many clients have threads of their own at a time, beside the one whose turn it is on the common thread.
const MOST: usize = 16;

/// Threads that register memory, and populate it where that is wanted. With RDMA, every page is allocated and pinned,
/// which for a large guest takes seconds: other clients are not to wait for that. A client has one region registered at
/// a time.
#[derive(Debug)]
pub(super) struct Registrar {
    common: Worker<RegistrationRequest>,
    /// Orders that the common thread has.
    waiting: Arc<AtomicUsize>,
    others: Mutex<Vec<JoinHandle<()>>>,
    handle: ControlHandle,
}

/// A region of a session that is to be registered.
#[derive(Debug, Clone)]
struct RegistrationRequest {
    session: u64,
    ctrl: Arc<Ctrl>,
    region: Arc<Region>,
    prefault: bool,
}

impl RegistrationRequest {
    fn carry_out(self, handle: &ControlHandle) {
        let Self { session, ctrl, region, prefault } = self;
        if prefault {
            region.populate();
        }
        // SPDK tells of memory that it does not take at the expense of whoever gave it.
        let register = |memory| spdk::memory::Registration::new(memory).map(|known| Box::new(known) as Registration);
        let result = spdk::log::charged_to(ctrl, || region.register(register));
        // Before the client may have it unmapped.
        drop(region);
        handle.send(ControlMessage::Registered { session, result });
    }
}

impl Registrar {
    /// Starts the common thread. `handle` is told when a region is registered.
    ///
    /// # Errors
    /// What the operating system says.
    pub(super) fn start(handle: ControlHandle) -> io::Result<Self> {
        let waiting = Arc::new(AtomicUsize::new(0));
        let (tell, count) = (handle.clone(), Arc::clone(&waiting));
        let work = move |request: RegistrationRequest| {
            request.carry_out(&tell);
            count.fetch_sub(1, Ordering::Relaxed);
        };
        Ok(Self { common: Worker::start("courier_map", work)?, waiting, others: Mutex::default(), handle })
    }

    /// Registers a region of a session, after its pages are populated if that is wanted.
    pub(super) fn register(&self, session: &Arc<Session>, region: Arc<Region>, prefault: bool) {
        let (session, ctrl) = (session.id, Arc::clone(&session.ctrl));
        let request = RegistrationRequest { session, ctrl, region, prefault };
        if self.waiting.load(Ordering::Relaxed) > 0 && self.carry_out_apart(&request) {
            return;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.common.send(request);
    }

    /// Carries a request out on a thread of its own. Returns whether there is one.
    fn carry_out_apart(&self, request: &RegistrationRequest) -> bool {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.retain(|thread| !thread.is_finished());
        if others.len() >= MOST {
            return false;
        }
        let (request, handle) = (request.clone(), self.handle.clone());
        match spdk::thread::spawn_unpinned("courier_map", move || request.carry_out(&handle)) {
            Ok(thread) => others.push(thread),
            Err(error) => {
                log::warn!("a client's memory waits for that of another: {error}");
                return false;
            }
        }
        true
    }
}

impl Drop for Registrar {
    fn drop(&mut self) {
        let others = self.others.get_mut().map(std::mem::take).unwrap_or_default();
        for thread in others {
            if thread.join().is_err() {
                log::error!("a thread that maps clients' memory has panicked");
            }
        }
    }
}
