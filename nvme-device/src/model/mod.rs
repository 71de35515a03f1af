//! The controller as the NVMe and PCI specifications have it: data in, data out.

pub mod admin;
pub mod io;
pub mod pci;
pub mod regs;
