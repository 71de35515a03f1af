//! What a client asks of its device by messages: memory that it maps and unmaps, interrupts, resets.

use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Instant;

use guest_memory::{GuestMemory, MapError, Region, UnmapError};
use vfio_user::{IrqRequest, UnmapRequest};

use super::irqs::{self, IrqChange, IrqError};
use super::{Replies, Unmaps};
use crate::admin_worker::Request;

#[cfg(test)]
mod tests;

/// What is to be done for a client, in this order.
#[derive(Debug)]
pub enum ClientOutput<T> {
    /// Devices are told of this region; what they say is the input [`Client::registered`].
    Register(Arc<Region>),
    /// This is the client's memory from now on.
    Publish(GuestMemory),
    /// The interrupts are changed, and the request is answered by what comes of that.
    ChangeIrqs {
        /// The request.
        token: T,
        /// What is changed, in this order.
        changes: Vec<IrqChange>,
    },
    /// The poll groups look at the session.
    Refresh,
    /// The admin worker is asked for this.
    Ask(Request),
    /// I/O in memory that was unmapped is aborted.
    AbortUnmapped,
    /// The operator is told.
    Warn(ClientWarning),
    /// A request is answered.
    Reply {
        /// The request.
        token: T,
        /// Whether it was done, or an errno.
        result: Result<(), i32>,
    },
}

/// What an operator is told about a client.
#[derive(Debug, thiserror::Error)]
pub enum ClientWarning {
    /// Memory that only messages reach.
    #[error(
        "the client maps {len:#x} bytes at {gpa:#x} without a file: data there go by messages, which is slow, and queues, \
         PRP lists and SGL segments cannot be there; share the VM's memory (QEMU: memory-backend-memfd,share=on)"
    )]
    WithoutFile {
        /// Where it is.
        gpa: u64,
        /// Of how many bytes.
        len: u64,
    },
    /// Memory that is not mapped.
    #[error("a mapping of the client's is refused: {0}")]
    NotMapped(MapError),
    /// Memory that devices do not take.
    #[error(
        "devices do not take the client's memory at {gpa:#x} ({reason}): I/O there fails on RDMA and on local drives; is it \
         shared memory or hugepages, and is the limit of locked memory (ulimit -l) high enough?"
    )]
    NotRegistered {
        /// Where it is.
        gpa: u64,
        /// What they say.
        reason: String,
    },
    /// Memory that is not unmapped.
    #[error("memory is not unmapped: {0}")]
    NotUnmapped(UnmapError),
    /// I/O goes on in memory that the client wants back.
    #[error("I/O is aborted: its memory is being unmapped")]
    Aborted,
    /// Interrupts that are not changed.
    #[error("{0}")]
    Interrupts(IrqError),
}

/// A client that has mapped memory, of which devices are being told.
#[derive(Debug)]
struct PendingMapping<T> {
    token: T,
    /// With that region.
    memory: GuestMemory,
    gpa: u64,
}

/// The requests of one client, each by its token, and its memory. Methods are inputs, and what comes of them is taken by
/// [`next_output`](Self::next_output).
#[derive(Debug)]
pub struct Client<T> {
    /// How many interrupt vectors there are.
    vectors: u16,
    memory: GuestMemory,
    mapping: Option<PendingMapping<T>>,
    unmaps: Unmaps<T, Arc<Region>>,
    replies: Replies<T>,
    outputs: VecDeque<ClientOutput<T>>,
}

impl<T> Client<T> {
    /// Returns one that has asked for nothing, of a function with so many interrupt vectors.
    #[must_use]
    pub fn new(vectors: u16) -> Self {
        Self {
            vectors,
            memory: GuestMemory::new(),
            mapping: None,
            unmaps: Unmaps::default(),
            replies: Replies::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Takes what is to be done next.
    pub fn next_output(&mut self) -> Option<ClientOutput<T>> {
        self.outputs.pop_front()
    }

    /// Returns the client's memory, as it was published last.
    #[must_use]
    pub const fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Returns whether a mapping is pending. The memory is to be there for whatever else the client asks: until then
    /// nothing else that changes anything is to be put in.
    #[must_use]
    pub const fn is_mapping(&self) -> bool {
        self.mapping.is_some()
    }

    /// Returns whether a request waits for what [`look`](Self::look) looks at.
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        !self.unmaps.is_empty() || self.replies.is_waiting()
    }

    /// Returns whether the function is ready: no reset of it is in progress that was answered for.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.replies.is_ready()
    }

    /// The client maps a region, or one that cannot be.
    pub fn map(&mut self, token: T, region: Result<Region, MapError>) {
        if self.is_mapping() {
            return self.reply(token, Err(libc::EBUSY));
        }
        let added = region.and_then(|region| {
            let region = Arc::new(region);
            Ok((self.memory.with(Arc::clone(&region))?, region))
        });
        match added {
            Ok((memory, region)) if region.has_file() => {
                self.mapping = Some(PendingMapping { token, memory, gpa: region.gpa() });
                self.outputs.push_back(ClientOutput::Register(region));
            }
            Ok((memory, region)) => {
                self.warn(ClientWarning::WithoutFile { gpa: region.gpa(), len: region.len() });
                self.publish(memory);
                self.reply(token, Ok(()));
            }
            Err(error) => {
                let errno = error.errno();
                self.warn(ClientWarning::NotMapped(error));
                self.reply(token, Err(errno));
            }
        }
    }

    /// Devices were told of the memory that was mapped last. If they do not take it, they refuse I/O there; others do
    /// not need it.
    pub fn registered(&mut self, result: Result<(), impl Display>) {
        let Some(PendingMapping { token, memory, gpa }) = self.mapping.take() else { return };
        if let Err(error) = result {
            self.warn(ClientWarning::NotRegistered { gpa, reason: error.to_string() });
        }
        self.publish(memory);
        self.reply(token, Ok(()));
    }

    /// The client takes regions away. The answer comes when no poll group holds them any more.
    pub fn unmap(&mut self, token: T, request: UnmapRequest, now: Instant) {
        if self.is_mapping() {
            return self.reply(token, Err(libc::EBUSY));
        }
        let parted =
            if request.all { Ok(self.memory.without_all()) } else { self.memory.without(request.addr, request.size) };
        match parted {
            // With an IOMMU in the guest, what is told to be gone need not have been there.
            Ok((_, regions)) if regions.is_empty() => self.reply(token, Ok(())),
            Ok((rest, regions)) => {
                self.publish(rest);
                self.unmaps.begin(token, regions, now);
                self.outputs.push_back(ClientOutput::Refresh);
            }
            Err(error) => {
                let errno = error.errno();
                self.warn(ClientWarning::NotUnmapped(error));
                self.reply(token, Err(errno));
            }
        }
    }

    /// The client sets its interrupts. None is taken when one `has_blocked` who wrote to it.
    pub fn set_irqs(&mut self, token: T, request: IrqRequest, has_blocked: bool) {
        let changes = if has_blocked { Err(IrqError::Blocked) } else { irqs::changes_of(request, self.vectors) };
        match changes {
            Ok(changes) => {
                self.outputs.push_back(ClientOutput::ChangeIrqs { token, changes });
                // Not from the thread that answers all clients: an eventfd of this one may block.
                self.outputs.push_back(ClientOutput::Refresh);
            }
            Err(error) => {
                let errno = error.errno();
                self.warn(ClientWarning::Interrupts(error));
                self.reply(token, Err(errno));
            }
        }
    }

    /// The client resets the device; the answer comes when nothing of its is in flight.
    pub fn reset(&mut self, token: T) {
        let number = self.replies.reset(token);
        self.outputs.push_back(ClientOutput::Ask(Request::Reset { number }));
    }

    /// The client resets the function by a write to its configuration space, which is answered by
    /// [`config_written`](Self::config_written).
    pub fn function_reset(&mut self) {
        let number = self.replies.function_reset();
        self.outputs.push_back(ClientOutput::Ask(number.map_or(Request::Disable, |number| Request::Reset { number })));
    }

    /// A write to configuration space is to be answered when what it began is over. `rest` is the state of the bus in
    /// which the poll groups are to come to rest, if the write forbids the function to access memory.
    pub fn config_written(&mut self, token: T, quiesce: Option<u64>, now: Instant) {
        self.replies.config_written(token, quiesce, now);
    }

    /// A reset is over.
    pub fn reset_done(&mut self, number: u64, quiesced: impl Fn(u64) -> bool, now: Instant) {
        self.replies.reset_done(number);
        self.answer_due(quiesced, now);
    }

    /// Looks for what is over or has been waited for long enough. `quiesced` tells whether the poll groups are at rest in
    /// a state of the bus; `release` keeps the regions that nobody holds, and gives the others back. Returns how many
    /// were let go.
    pub fn look(
        &mut self,
        quiesced: impl Fn(u64) -> bool,
        release: impl FnMut(Vec<Arc<Region>>) -> Vec<Arc<Region>>,
        now: Instant,
    ) -> usize {
        self.answer_due(quiesced, now);
        let released = self.unmaps.release(release, now);
        for token in released.replies {
            self.reply(token, Ok(()));
        }
        if released.is_overdue {
            self.warn(ClientWarning::Aborted);
            self.outputs.push_back(ClientOutput::AbortUnmapped);
        }
        released.regions
    }

    /// The client has gone. Returns the regions that it had mapped, and those that are still in use.
    pub fn into_regions(self) -> Vec<Arc<Region>> {
        let memory = self.mapping.map_or(self.memory, |mapping| mapping.memory);
        memory.regions().cloned().chain(self.unmaps.into_regions()).collect()
    }

    fn answer_due(&mut self, quiesced: impl Fn(u64) -> bool, now: Instant) {
        for token in self.replies.take_due(quiesced, now) {
            self.reply(token, Ok(()));
        }
    }

    fn publish(&mut self, memory: GuestMemory) {
        self.outputs.push_back(ClientOutput::Publish(memory.clone()));
        self.memory = memory;
    }

    fn warn(&mut self, warning: ClientWarning) {
        self.outputs.push_back(ClientOutput::Warn(warning));
    }

    fn reply(&mut self, token: T, result: Result<(), i32>) {
        self.outputs.push_back(ClientOutput::Reply { token, result });
    }
}
