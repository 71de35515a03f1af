//! Pools over RDMA, and over TCP for comparison: of SPDK's target and of the Linux kernel's own.
//!
//! They need a machine with RDMA and are left out elsewhere; `scripts/test-rdma.sh` runs them in that of
//! `scripts/rdma-vm.sh`, whose kernel drives Soft-RoCE (`rdma_rxe`). It is emulated, and slow: every test makes its
//! target, and does what needs one.

mod controller;
mod data;
mod faults;
mod memory;
mod target;

use crate::support::load::Work;
use target::{Fabric, Target, TargetKind};

/// Work that is over soon on a slow machine.
const fn verify(io_size: u64, depth: u32) -> Work<'static> {
    Work { kind: "verify", io_size, depth, seconds: 1 }
}

/// Makes a test of each combination of a target and a fabric, which calls the function of that name.
macro_rules! for_every_target {
    ($($test:ident)*) => {
        for_every_target! { @ spdk_rdma Spdk Rdma $($test)* }
        for_every_target! { @ kernel_rdma Kernel Rdma $($test)* }
        for_every_target! { @ spdk_tcp Spdk Tcp $($test)* }
        for_every_target! { @ kernel_tcp Kernel Tcp $($test)* }
    };
    (@ $module:ident $kind:ident $fabric:ident $($test:ident)*) => {
        mod $module {
            use serial_test::serial;

            use crate::rdma::{Fabric, TargetKind};

            $(
                #[test]
                #[serial]
                #[ignore = "needs the machine of scripts/rdma-vm.sh"]
                fn $test() {
                    super::$test(TargetKind::$kind, Fabric::$fabric);
                }
            )*
        }
    };
}
use for_every_target;
