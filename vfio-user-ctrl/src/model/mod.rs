//! The controller as the NVMe and PCI specifications have it: data in, data out.
#![forbid(unsafe_code)]

pub mod admin;
pub mod dptr;
pub mod io;
pub mod pci;
pub mod regs;
