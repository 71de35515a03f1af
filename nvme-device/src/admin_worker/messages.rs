//! What goes into the admin worker, and what comes out of it.

use std::fmt;

use crate::model::admin::{IoTotals, Namespace, NamespaceError, QueueId};
use crate::model::regs::{Enable, EntrySizes};
use crate::queue::{QueueErrorEvent, Settings};
use guest_memory::Fault;
use nvme_spec::{Sqe, Status};

use super::requests::Request;

/// What an [`Answer`] is the answer to. No two questions have the same one, so that an answer that comes too late is
/// known as such.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub(super) u64);

/// What the admin worker is told.
#[derive(Debug)]
pub enum Input {
    /// A client has come. One that was there is gone.
    Attached,
    /// The client is gone: nothing that it left is waited for.
    Detached,
    /// The next of the [`Requests`](super::Requests), while
    /// [`AdminWorker::wants_request`](super::AdminWorker::wants_request).
    Request(Request),
    /// A command from the admin submission queue, for which a completion entry is reserved, while
    /// [`AdminWorker::wants_command`](super::AdminWorker::wants_command).
    Command(AdminCommand),
    /// No more commands are taken in this poll: what they have set may be published.
    CommandsTaken,
    /// Something that was asked for is done.
    Answer(Ticket, Answer),
    /// Time has gone by, while [`AdminWorker::has_deadline`](super::AdminWorker::has_deadline).
    Poll,
    /// Time has gone by: what is looked after from time to time.
    Tick,
    /// I/O queues have met with something that the host can read in a log page.
    ErrorEvents(Vec<QueueErrorEvent>),
    /// There is another namespace.
    AddNamespace(Namespace),
    /// A namespace is gone.
    RemoveNamespace {
        /// Its identifier.
        nsid: u32,
    },
    /// A namespace has another size.
    ResizeNamespace {
        /// Its identifier.
        nsid: u32,
        /// Its size in blocks.
        blocks: u64,
    },
}

/// A command from the admin submission queue.
#[derive(Debug, Clone)]
pub struct AdminCommand {
    /// The command.
    pub sqe: Sqe,
    /// CC.IOSQES and CC.IOCQES as they are now.
    pub entry_sizes: EntrySizes,
    /// Whether the host takes its interrupts by the pin, as it is now.
    pub pin_in_use: bool,
    /// What the controller has carried, if
    /// [`Controller::wants_io_totals`](crate::model::admin::Controller::wants_io_totals).
    pub io_totals: Option<IoTotals>,
}

/// The answer to what has a [`Ticket`].
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done.
    Done,
    /// It could not be done: there is no such completion queue, or no such command.
    Failed,
    /// The memory can be used, or not.
    Checked(Result<(), UnusableMemory>),
    /// The host has got the data, or not.
    Written(Result<(), Status>),
    /// The host's data.
    Read(Result<Vec<u8>, Status>),
}

/// Guest memory that cannot be used for what the host wants to use it for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnusableMemory {
    /// Where it is.
    pub gpa: u64,
    /// What is wrong with it.
    pub fault: Fault,
}

/// Guest memory that the host wants to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueuePlace {
    /// For the admin queues.
    AdminQueues(Enable),
    /// For a completion queue.
    CompletionQueue {
        /// Where it is to be.
        base: u64,
        /// How many entries it is to have.
        entries: u16,
    },
    /// For a submission queue.
    SubmissionQueue {
        /// Where it is to be.
        base: u64,
        /// How many entries it is to have.
        entries: u16,
    },
    /// For shadow doorbells and their event indexes.
    ShadowDoorbells {
        /// Where the shadow doorbells are to be.
        shadow: u64,
        /// Where their event indexes are to be.
        event_idx: u64,
    },
}

/// What a poll group is to do with its queues of the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupRequest {
    /// Make a completion queue.
    CreateCq {
        /// Its identifier.
        qid: u16,
        /// Where it is in guest memory.
        base: u64,
        /// How many entries it has.
        entries: u16,
        /// The interrupt vector, if the host wants interrupts.
        vector: Option<u16>,
        /// Set if volatile write caches are used.
        write_cache: bool,
    },
    /// Make a submission queue, whose completion queue is here.
    CreateSq {
        /// Its identifier.
        qid: u16,
        /// Where it is in guest memory.
        base: u64,
        /// How many entries it has.
        entries: u16,
        /// Its completion queue.
        cqid: u16,
    },
    /// Delete a submission queue. It is done when all its commands have ended.
    DeleteSq {
        /// Its identifier.
        qid: u16,
    },
    /// Delete a completion queue.
    DeleteCq {
        /// Its identifier.
        qid: u16,
    },
    /// Abort a command. It has failed if the command was not aborted.
    Abort {
        /// The submission queue that it came from.
        sqid: u16,
        /// Its command identifier.
        cid: u16,
    },
    /// Use volatile write caches or not.
    SetWriteCache {
        /// Set if they are used.
        on: bool,
    },
    /// Take the [`Settings`] that are stored.
    TakeSettings,
    /// Write back what the namespaces have in volatile caches.
    Flush,
    /// Delete all queues. It is done when no command is in flight.
    DeleteAll,
}

/// What is to be done, in this order. What has a [`Ticket`] is answered by [`Input::Answer`], at once or later.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Look whether the newest guest memory can be used so: [`Answer::Checked`].
    Check(Ticket, QueuePlace),
    /// Make the admin queues, and have all doorbells be 0.
    CreateAdminQueues(Enable),
    /// The admin queues are no more.
    DropAdminQueues,
    /// CSTS.RDY = 1.
    SetReady,
    /// CSTS.CFS = 1.
    SetFatal,
    /// CSTS.SHST = 10b.
    SetShutdownComplete,
    /// CSTS.RDY = 0. If a shutdown is asked for, [`Request::Shutdown`] comes next.
    ResetDone,
    /// The device reset of that number is over.
    ResetOver {
        /// By which the client's connection knows the reset.
        number: u64,
    },
    /// All queues are gone: have all doorbells be 0, and forget the [`Settings`].
    ForgetQueues,
    /// Complete a command, by the entry that is reserved for it.
    Complete {
        /// Its command identifier.
        cid: u16,
        /// Its result.
        dw0: u32,
        /// Its status.
        status: Status,
    },
    /// A command is kept without a completion entry.
    Hold,
    /// Complete, as far as there are completion entries, what
    /// [`AdminWorker::prepare_event`](super::AdminWorker::prepare_event) has.
    CompleteEvents,
    /// Give the host `data` where the command's data pointer says: [`Answer::Written`].
    WriteData {
        /// What to answer with.
        ticket: Ticket,
        /// The command.
        sqe: Sqe,
        /// What to write.
        data: Vec<u8>,
    },
    /// Fetch `len` bytes from where the command's data pointer says: [`Answer::Read`].
    ReadData {
        /// What to answer with.
        ticket: Ticket,
        /// The command.
        sqe: Sqe,
        /// How many bytes.
        len: usize,
    },
    /// The doorbell of an I/O queue that is to be made is 0.
    ClearDoorbell(QueueId),
    /// Have a poll group do something.
    Send {
        /// Which of the controller's poll groups.
        group: usize,
        /// What it answers with.
        ticket: Ticket,
        /// What it is to do.
        request: GroupRequest,
    },
    /// This holds for all queues from now on; who makes queues later finds it.
    StoreSettings(Settings),
    /// The same, and the poll groups that have queues are told.
    PublishSettings(Settings),
    /// The host has not been heard of for longer than it promised: CSTS.CFS = 1, and [`Request::Fail`] after what has
    /// been requested.
    KeepAliveExpired,
    /// The namespace can be used from now on.
    AddChannels {
        /// Its identifier.
        nsid: u32,
    },
    /// The namespace cannot be had.
    RefuseNamespace {
        /// Its identifier.
        nsid: u32,
        /// Why.
        error: NamespaceError,
    },
    /// The namespace is gone.
    RemoveChannels {
        /// Its identifier.
        nsid: u32,
    },
    /// The namespace has this many blocks now.
    ResizeNamespace {
        /// Its identifier.
        nsid: u32,
        /// Its size in blocks.
        blocks: u64,
    },
    /// Something for the operator to read.
    Report(Report),
}

/// What an operator may want to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// The admin queues cannot be where the host wants them: CSTS.CFS is set.
    AdminQueues(UnusableMemory),
    /// An I/O queue cannot be where the host wants it.
    Queue(QueueId, UnusableMemory),
    /// A shutdown is told to be complete before its flushes have ended.
    FlushTooSlow,
    /// A namespace cannot have the size that its bdev has now.
    SizeRefused(u32, NamespaceError),
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AdminQueues(UnusableMemory { gpa, fault }) => {
                write!(f, "the controller fails: its admin queue cannot be at {gpa:#x}: {fault}")
            }
            Self::Queue(queue, UnusableMemory { gpa, fault }) => {
                write!(f, "{queue:?} is refused: it cannot be at {gpa:#x}: {fault}")
            }
            Self::FlushTooSlow => f.write_str("the shutdown is over before all caches are written back"),
            Self::SizeRefused(nsid, error) => write!(f, "namespace {nsid} keeps its size: {error}"),
        }
    }
}
