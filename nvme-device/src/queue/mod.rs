//! The queues of a controller on one reactor: from the doorbell to the backend, and from the backend to the completion
//! entry.
//!
//! The way of a command, all of it on one thread:
//!
//! 1. [`Queues::poll`] sees that the doorbell has moved, reserves a completion entry for each command before it takes
//!    it, and copies the entry out of guest memory once.
//! 2. The copy is [decoded](crate::model::io) and its data pointer is [walked](guest_memory::dptr) into pieces of host
//!    memory, which the [`Io`](guest_memory::Io) of the command holds.
//! 3. A [`Backend`] takes the I/O, and [`complete`] hears of its end. A command whose I/O is dropped instead ends with
//!    Internal Error.
//! 4. `CompletionQueue::post` writes the completion entry, for which it takes the reserved one; [`Queues::signal`]
//!    raises at most one interrupt per completion queue and poll.
//!
//! Nothing here knows SPDK: the backend is a type parameter, so that tests and fuzzers bring their own.

mod aborts;
mod admin;
mod backend;
mod client_dma;
mod completion;
mod context;
mod cursor;
mod deallocate;
mod fence;
mod interrupt;
mod namespace;
mod pin;
mod queues;
mod reserved;
mod settings;
mod state;
mod submission;
#[cfg(test)]
mod tests;
mod trace;

pub use aborts::AbortToken;
pub use admin::AdminQueue;
pub use backend::{Backend, BlockOp, Refusal, Refused};
pub use client_dma::{ClientDma, DmaOperation, Transfer};
pub use completion::CompletionQueue;
pub use context::{CommandFault, QueueErrorEvent};
use cursor::Cursor;
pub use fence::{Fence, FenceGuard};
pub use interrupt::{Coalescing, Interrupts, Vector};
pub use namespace::{MAX_NAMESPACES, NamespaceChannel};
pub use pin::{Pin, PinMask};
pub use queues::Queues;
pub use settings::Settings;
pub use state::{CompletionState, LeftoverState, SubmissionState, Totals};
pub use submission::{CommandIo, IoState, SubmissionQueue, complete, complete_passthru, queue_memory_bytes};
pub use trace::{Reason, TraceStep, Traced};
