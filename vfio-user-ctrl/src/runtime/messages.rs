//! The messages between the threads, and the ways to these. Who sends which, when, and what is answered, is told in
//! `docs/messages.md`.
//!
//! Each receiver has a type of messages of its own. Those of one sender to one receiver come in the order in which they
//! were sent. A message is moved into the receiver's list as a value: neither to send nor to take one allocates, but
//! for what it holds.

use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};

use std::os::fd::OwnedFd;

use spdk::Errno;
use spdk::bdev_client::BdevDesc;
use spdk::mailbox::{AppThread, Mailbox};
use spdk::os_thread::OsThread;
use spdk::thread::OwnedThread;

use super::session::{Ctrl, Session};
use nvme_device::admin_worker::{Answer, GroupRequest, Ticket};
use nvme_device::model::admin::{Controller, Namespace};
use nvme_device::model::io::NsGeometry;
use nvme_device::queue::{
    CompletionState, Fence, FenceGuard, LeftoverState, QueueErrorEvent, SubmissionState, Transfer,
};

/// What a namespace is on a poll group, before it has a channel.
#[derive(Debug, Clone)]
pub(crate) struct NamespaceSpec {
    /// The namespace.
    pub nsid: u32,
    /// Its bdev.
    pub desc: Arc<BdevDesc>,
    /// Its size and abilities.
    pub geometry: NsGeometry,
    /// The fence of its disk.
    pub fence: Arc<Fence>,
}

/// What a poll group is told.
#[derive(Debug)]
pub(super) enum GroupMessage {
    /// Have the admin worker of a new controller.
    AddController {
        /// The controller.
        routes: Arc<Routes>,
        /// What it is to the host at first.
        model: Box<Controller>,
    },
    /// A controller goes, whose client is gone: let its admin worker go, and have every poll group tell when nothing of
    /// it is left there.
    RemoveController {
        /// The controller.
        routes: Arc<Routes>,
        /// Of the fences of its namespaces' bdevs, which others may have by now.
        guards: Vec<FenceGuard>,
    },
    /// Tell the application's thread when nothing of that controller is left here.
    TellWhenClear {
        /// The controller.
        ctrl: u64,
    },
    /// Tell the application's thread what the queues of that controller hold here.
    DescribeQueues {
        /// The controller.
        ctrl: u64,
        /// By which the application's thread knows what it asked for.
        inspection: u64,
    },
    /// Something for the admin worker of a controller, if it is here.
    Admin {
        /// The controller.
        ctrl: u64,
        /// What it is told.
        message: AdminMessage,
    },
    /// Something for the queues of a session, if it has any here.
    Queues {
        /// The session.
        session: u64,
        /// What they are told.
        message: QueueMessage,
    },
    /// Do what the admin worker asks for, and answer it.
    Request {
        /// The controller.
        routes: Arc<Routes>,
        /// The session.
        session: Arc<Session>,
        /// What its queues are to reach, where it has none here yet and is to get some.
        specs: Vec<NamespaceSpec>,
        /// What is to be answered with.
        ticket: Ticket,
        /// What is to be done.
        request: GroupRequest,
    },
    /// Take what the host has set for all queues.
    TakeSettings {
        /// The session.
        session: Arc<Session>,
        /// Which poll group of the controller this is.
        index: usize,
    },
    /// The guest's memory, whether it may be accessed, or the interrupts have changed: look at them, let go of what is
    /// gone, and tell the control thread when memory that must not be accessed is not.
    Refresh {
        /// The controller.
        routes: Arc<Routes>,
        /// The session.
        session: Arc<Session>,
        /// Which poll group of the controller this is.
        index: usize,
    },
    /// The application ends: let go of everything, have the group's thread exit, and tell the application's thread.
    Stop,
}

/// What a controller's admin worker is told.
#[derive(Debug)]
pub(super) enum AdminMessage {
    /// A client has come.
    Attach {
        /// Its session.
        session: Arc<Session>,
    },
    /// The client of that session has gone.
    Detach {
        /// Its session.
        session: u64,
    },
    /// The client of that session has asked for something, which the session has.
    Requested {
        /// Its session.
        session: u64,
    },
    /// What was asked of a poll group, or of the client's memory, is done.
    Answer {
        /// For which session that was.
        session: u64,
        /// What was asked.
        ticket: Ticket,
        /// How it went.
        answer: Answer,
    },
    /// Queues have met with something that the host can read in a log page.
    ErrorEvents {
        /// Whose queues.
        session: u64,
        /// What that was.
        error_events: Vec<QueueErrorEvent>,
    },
    /// There is another namespace.
    AddNamespace {
        /// What it is to the host.
        namespace: Namespace,
        /// How it is reached.
        spec: NamespaceSpec,
    },
    /// A namespace is gone.
    RemoveNamespace {
        /// Its identifier.
        nsid: u32,
        /// Its bdev, which stays open until the poll groups are told, so that its channels are put first.
        desc: Arc<BdevDesc>,
        /// Of the bdev's fence: it may be another controller's by now.
        guard: FenceGuard,
    },
    /// A namespace has another size.
    ResizeNamespace {
        /// Its identifier.
        nsid: u32,
        /// Its size in blocks.
        blocks: u64,
    },
}

/// What the queues of a session on a poll group are told.
#[derive(Debug)]
pub(super) enum QueueMessage {
    /// The session is over.
    End {
        /// Of the fences of its namespaces' bdevs. They are up until every poll group knows.
        guards: Arc<Vec<FenceGuard>>,
    },
    /// There is another namespace.
    AddNamespace(NamespaceSpec),
    /// A namespace is gone.
    RemoveNamespace {
        /// Its identifier.
        nsid: u32,
        /// Of its bdev's fence, which is up until every poll group knows.
        guard: Arc<FenceGuard>,
    },
    /// A namespace has another size.
    SetGeometry {
        /// Its identifier.
        nsid: u32,
        /// What it is now.
        geometry: NsGeometry,
    },
    /// Abort I/O in memory that the client wants back.
    AbortUnmapped,
    /// A transfer with the client is over.
    Transferred {
        /// Which one.
        id: u64,
        /// What was read, or an errno of the client's.
        result: Result<Vec<Vec<u8>>, i32>,
    },
}

/// What the control thread is told.
#[derive(Debug)]
pub(super) enum ControlMessage {
    /// Serve a controller on a socket.
    AddController {
        /// The controller.
        routes: Arc<Routes>,
        /// Where its clients connect.
        listener: UnixListener,
    },
    /// Serve it no more, and have its admin worker go.
    RemoveController {
        /// The controller.
        routes: Arc<Routes>,
        /// Of the fences of its namespaces' bdevs, which others may have by now.
        guards: Vec<FenceGuard>,
    },
    /// A device reset is over.
    ResetDone {
        /// Of the client of that session.
        session: u64,
        /// By which its connection knows the reset.
        number: u64,
    },
    /// Devices were told of the memory that a session's client has mapped, or not.
    Registered {
        /// The session.
        session: u64,
        /// How it went.
        result: Result<(), Errno>,
    },
    /// A poll group has let go of memory, or has come to rest.
    Released,
    /// A poll group wants to reach memory of a client's that came without a file.
    Transfer {
        /// The client's session.
        session: u64,
        /// Which is told of the end.
        group: Arc<GroupHandle>,
        /// What is wanted.
        transfer: Transfer,
    },
    /// It does not want that any more.
    Cancel {
        /// The client's session.
        session: u64,
        /// Which transfer.
        id: u64,
    },
    /// End.
    Stop,
}

/// What the application's thread is told.
#[derive(Debug)]
pub(super) enum AppMessage {
    /// Nothing of a controller is left on one poll group.
    Clear {
        /// The controller.
        ctrl: u64,
    },
    /// What the queues of a controller hold on one poll group.
    QueueStates {
        /// By which the receiver knows what it asked for.
        inspection: u64,
        /// The answer.
        states: QueueStates,
    },
    /// A poll group has ended, and its thread has been told to exit.
    GroupEnded,
}

/// What one poll group tells of a controller.
#[derive(Debug)]
pub(super) struct QueueStates {
    /// The controller.
    pub(super) ctrl: u64,
    /// Where this is.
    pub(super) core: u32,
    /// The clock's count.
    pub(super) now: u64,
    /// The submission queues there.
    pub(super) submission: Vec<SubmissionState>,
    /// The completion queues there.
    pub(super) completion: Vec<CompletionState>,
    /// Commands of queues and sessions that are gone.
    pub(super) left: LeftoverState,
}

/// A poll group, for other threads.
#[derive(Debug)]
pub(crate) struct GroupHandle {
    /// The core that it is for, which tells it from others.
    pub core: u32,
    mailbox: Arc<Mailbox<(u32, GroupMessage), Arc<OwnedThread>>>,
    thread: Arc<OwnedThread>,
    app: Arc<Mailbox<AppMessage, AppThread>>,
    reactor: OnceLock<OsThread>,
    /// While interrupts are raised, which time that is; else 0.
    raising: AtomicU64,
    /// What [`watch`](Self::watch) saw last.
    seen: AtomicU64,
}

impl GroupHandle {
    /// Returns a poll group on that core, whose messages come by `mailbox` to `thread`, and which tells the
    /// application's thread something by `app`.
    pub(super) fn new(
        core: u32,
        mailbox: Arc<Mailbox<(u32, GroupMessage), Arc<OwnedThread>>>,
        app: Arc<Mailbox<AppMessage, AppThread>>,
        thread: Arc<OwnedThread>,
    ) -> Self {
        let (reactor, raising, seen) = (OnceLock::new(), AtomicU64::new(0), AtomicU64::new(0));
        Self { core, mailbox, thread, app, reactor, raising, seen }
    }

    /// Has the group's thread exit, on that thread. What is sent from now on is dropped.
    ///
    /// # Errors
    /// `NXIO` when the application has ended its threads already.
    pub(super) fn exit(&self) -> Result<(), Errno> {
        self.thread.exit()
    }

    /// Sends a message, from any thread.
    pub(super) fn send(&self, message: GroupMessage) {
        self.mailbox.send((self.core, message));
    }

    /// Tells the queues of a session there something.
    pub(super) fn send_queues(&self, session: u64, message: QueueMessage) {
        self.send(GroupMessage::Queues { session, message });
    }

    /// Tells the application's thread something.
    pub(super) fn send_app(&self, message: AppMessage) {
        self.app.send(message);
    }

    /// The calling thread is the group's reactor.
    pub(super) fn note_reactor(&self) {
        self.reactor.get_or_init(OsThread::current);
    }

    /// Interrupts are being raised, for the time of that number, or are not where it is 0.
    #[inline]
    pub(super) fn set_raising(&self, count: u64) {
        self.raising.store(count, Ordering::Relaxed);
    }

    /// Gets the reactor out of raising interrupts if it has been at that since the last call: a client has made an
    /// eventfd of its block. To be called by one thread, every few milliseconds.
    pub(super) fn watch(&self) {
        let raising = self.raising.load(Ordering::Relaxed);
        if raising != 0
            && self.seen.swap(raising, Ordering::Relaxed) == raising
            && let Some(reactor) = self.reactor.get()
        {
            reactor.interrupt();
        }
    }
}

/// The way to the control thread.
#[derive(Debug, Clone)]
pub(super) struct ControlHandle {
    messages: Sender<ControlMessage>,
    wake: Arc<OwnedFd>,
}

impl ControlHandle {
    /// Messages go to `messages`; then the eventfd `wake` is written to.
    pub(super) fn new(messages: Sender<ControlMessage>, wake: Arc<OwnedFd>) -> Self {
        Self { messages, wake }
    }

    /// Sends a message, from any thread.
    pub(super) fn send(&self, message: ControlMessage) {
        if self.messages.send(message).is_ok() {
            self.wake();
        }
    }

    /// Has the control thread look for messages.
    pub(super) fn wake(&self) {
        // The eventfd does not block; one whose count is full wakes as well.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// A controller with the ways to its threads.
#[derive(Debug)]
pub(super) struct Routes {
    /// The controller.
    pub(super) ctrl: Arc<Ctrl>,
    /// The poll groups that its queues are spread over.
    pub(super) groups: Vec<Arc<GroupHandle>>,
    /// The one of them that its admin worker is on.
    pub(super) admin_group: Arc<GroupHandle>,
    /// Who has its socket and its client's connection.
    pub(super) control: ControlHandle,
}

impl Routes {
    /// Tells its admin worker something.
    pub(super) fn send_admin(&self, message: AdminMessage) {
        self.admin_group.send(GroupMessage::Admin { ctrl: self.ctrl.id, message });
    }

    /// Tells the queues of a session something, on every poll group that has some.
    pub(super) fn send_queues(&self, session: u64, message: impl Fn() -> QueueMessage) {
        for group in &self.groups {
            group.send_queues(session, message());
        }
    }
}

/// Whom to tell when something is done that an admin worker has asked for, from any thread.
#[derive(Debug, Clone)]
pub(super) struct AnswerTo {
    routes: Arc<Routes>,
    session: u64,
    ticket: Ticket,
}

impl AnswerTo {
    /// Returns the answer to what has that ticket, for a client's session.
    pub(super) fn new(routes: &Arc<Routes>, session: u64, ticket: Ticket) -> Self {
        Self { routes: Arc::clone(routes), session, ticket }
    }

    /// Sends the answer.
    pub(super) fn send(self, answer: Answer) {
        let Self { routes, session, ticket } = self;
        routes.send_admin(AdminMessage::Answer { session, ticket, answer });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_small_enough_to_be_moved_as_values() {
        assert!(size_of::<GroupMessage>() <= 192, "{}", size_of::<GroupMessage>());
        assert!(size_of::<ControlMessage>() <= 128, "{}", size_of::<ControlMessage>());
    }
}
