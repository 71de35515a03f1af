//! The memory of a virtual machine: the only crate that touches memory which is shared with the client and its guest. It
//! builds, and is tested, where there is no SPDK: devices are told of memory, and I/Os are carried, by the traits of
//! [`host_memory`].
//!
//! | what | which |
//! |---|---|
//! | [`Region`], [`MappedFile`], [`Files`] | one mapping of the client's memory, unmapped when its last holder drops it |
//! | [`guard`] | keeps the process alive when a client shrinks a file that is mapped |
//! | [`GuestMemory`], [`MemView`] | the regions of one guest, sorted; guest addresses to host addresses |
//! | [`SubmissionRing`], [`CompletionRing`] | submission and completion queues in guest memory |
//! | [`doorbells`] | the doorbell page of BAR0, and shadow doorbells in guest memory |
//! | [`dptr`] | a command's data pointer, PRP or SGL: walked to the pieces of its data |
//! | [`IovSink`], [`copy`] | a command's data as I/O vectors of host memory, or copied |
//! | [`order`] | the orders of access that two threads, or we and the guest, rely on |
//! | [`Bounce`] | pages of ours that stand in for memory without a file while a command lasts |
//! | [`Slots`], [`Io`] | the I/Os of a queue that are in flight, with the memory that they hold |
//! | [`QueueMemory`] | where the places of a session's I/Os are |
//!
//! # Memory that others write
//! The guest writes this memory whenever it likes, and so does a device that another of our commands runs on. So no
//! Rust reference to it ever exists but to atomics, and all access is by atomic loads and stores (relaxed, where
//! nothing more is said): such an access cannot be a data race, and the compiler can neither repeat nor merge it.
//! The value of what is read is the guest's to choose; whoever uses it copies it once and judges the copy. An
//! object may be torn between its 8-byte words, which is no worse than a guest that wrote it so.
//!
//! Host addresses leave this crate only as raw pointers, which safe code cannot follow.

mod bounce;
mod budget;
mod bytes;
pub mod copy;
pub mod doorbells;
pub mod dptr;
mod error;
mod files;
pub mod guard;
mod host;
mod iov;
mod mapping;
mod memfd;
pub mod order;
mod pages;
mod queue_memory;
mod region;
mod ring;
mod slots;
mod sync;
mod table;
mod unmapped_regions;
mod view;

pub use bounce::Bounce;
pub use budget::LimitShare;
pub use doorbells::{DoorbellPage, ShadowDoorbells};
pub use error::{Fault, MapError, UnmapError};
pub use files::Files;
pub use iov::IovSink;
pub use mapping::{Access, MappedFile, Registration};
pub use pages::{Allocate, BounceBudget, BounceError, BouncePool};
pub use queue_memory::QueueMemory;
pub use region::{Extent, Region, RegionId};
pub use ring::{CompletionRing, SubmissionRing};
pub use slots::{InFlight, Io, IoToken, MAX_PIECES, Slots};
pub use table::{GuestMemory, HostPiece};
pub use unmapped_regions::UnmappedRegions;
pub use view::MemView;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
