//! NVM Express and NVMe over Fabrics as types: what lies in queues, registers, buffers and capsules.
//!
//! A number of the specifications stands here once, under the name that it has there. The facts are those of the
//! NVM Express Base Specification 2.0, the NVM Command Set Specification 1.0, the Zoned Namespace Command Set
//! Specification 1.1, the PCIe Transport Specification 1.0 and the TCP Transport Specification 1.0. What a later
//! revision has added to a place that was reserved is named with its revision.
//!
//! | module | what | document |
//! |---|---|---|
//! | [`command`] | submission queue entries, completion queue entries, data pointers | base, section 3.3.3 |
//! | [`status`] | how a command ended | base, section 3.3.3.2.1 |
//! | [`opcode`] | opcodes | base, section 5 and 7; command sets |
//! | [`admin`] | command dwords of admin commands, events | base, section 5 |
//! | [`nvm`] | command dwords and data of I/O commands | NVM command set, section 3.2 |
//! | [`zns`] | zones | zoned namespaces, section 3.4 |
//! | [`reservation`] | reservations | base, section 7.2 to 7.6 |
//! | [`identify`] | what Identify answers | base, section 5.17; command sets |
//! | [`log`] | log pages | base, section 5.16.1 |
//! | [`feature`] | features | base, section 5.27.1; NVM command set, section 4.1.3 |
//! | [`register`] | the registers of a controller | base, section 3.1.3; PCIe transport, section 3.1.2 |
//! | [`fabrics`] | commands of NVMe over Fabrics | base, section 6 |
//! | [`host`] | commands as a host makes them | as above |
//! | [`tcp`] | PDUs of NVMe/TCP | TCP transport, section 3.6 |
//!
//! # How values are made
//! - A field whose values have names is a wrapper of its number, such as [`AdminOpcode`]: each number is a value of it,
//!   since the other side may send any. The named ones are constants, which a `match` can name.
//! - A field of bits is a type with an accessor for each, such as [`register::Cap`]: `new` has all bits 0, `with_…`
//!   returns a copy with another value, and `from_bits` and `into_bits` convert it. Reserved bits are kept.
//! - A structure lies in memory as on the wire, has its size checked, and can be made from bytes and into bytes by
//!   `zerocopy`. `new_zeroed` is one that says nothing. Fields that the specification puts at odd places are
//!   `zerocopy`'s, without alignment; all others are numbers of the machine, which must be little-endian.
//!
//! Every size and number is compared with SPDK's headers by a test of the crate `spdk`.
//!
//! # What it does not implement
//! What no part of Courier names: directives, virtualization, management interface, security protocols, sanitizing,
//! flexible data placement, key-value sets, copy, discovery logs, in-band authentication.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(not(target_endian = "little"))]
compile_error!("the structures are those of a little-endian machine");

#[cfg(test)]
extern crate std;

#[macro_use]
mod macros;

pub mod admin;
pub mod command;
pub mod fabrics;
pub mod feature;
pub mod host;
pub mod identify;
pub mod log;
pub mod nvm;
pub mod opcode;
pub mod register;
pub mod reservation;
pub mod status;
pub mod tcp;
pub mod zns;

pub use command::{CommandFlags, Cqe, FusedOperation, Psdt, SglDescriptor, Sqe};
pub use opcode::{AdminOpcode, IoOpcode};
pub use status::{Status, StatusCode, StatusCodeType};

/// The namespace identifier that stands for all namespaces (base specification, section 3.2.1.2).
pub const ALL_NAMESPACES: u32 = 0xffff_ffff;

/// The greatest namespace identifier that a namespace can have; the one behind it is reserved.
pub const MAX_NSID: u32 = 0xffff_fffd;

/// Bytes of the smallest memory page, of what Identify answers, and of most lists.
pub const PAGE: usize = 4096;

/// The most bytes of an NVMe Qualified Name, without the zero that ends it (base specification, section 4.5).
pub const MAX_NQN: usize = 223;

/// Bytes of the field that holds an NVMe Qualified Name.
pub const NQN_FIELD: usize = 256;
