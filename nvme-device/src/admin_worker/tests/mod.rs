//! The admin worker as its surroundings see it: inputs in, outputs out.

mod bench;
mod commands;
mod cycle;
mod namespaces;
mod random;

use std::time::Duration;

use super::*;
use crate::model::admin::tests::identity;
use crate::model::admin::{IoTotals, Limits, Namespace, QueueId};
use crate::model::io::IoSupport;
use crate::model::regs::Version;
use bench::{Bench, DataTransfer};
use guest_memory::Fault;
use nvme_spec::admin::{CreateCqDw11, CreateSqDw11};
use nvme_spec::feature::{AsyncEventConfiguration, FeatureId, InterruptCoalescing};
use nvme_spec::identify::Cns;
use nvme_spec::log::LogId;
use nvme_spec::{AdminOpcode, Sqe, Status};

const SECOND: Duration = Duration::from_secs(1);

/// Poll groups, and the one of them that the admin queues are on.
const GROUPS: usize = 3;
const OWN: usize = 1;

/// Entries of the admin queues.
const ENTRIES: u16 = 8;

fn model() -> Controller {
    let limits = Limits { max_queues: 4, max_queue_entries: 256, mdts: 5, vectors: 5, wzsl: 0 };
    Controller::new(identity(), limits).expect("valid limits")
}

fn namespace(nsid: u32, uuid: u8) -> Namespace {
    Namespace {
        nsid,
        blocks: 2048,
        block_shift: 12,
        uuid: [uuid; 16],
        nguid: [uuid; 16],
        eui64: [0; 8],
        supports: IoSupport::NONE,
        compare_and_write_blocks: 0,
        optimal_boundary_blocks: 0,
        preferred_write_blocks: 0,
        preferred_unmap_blocks: 0,
        write_protected: false,
    }
}

fn create_cq(qid: u16) -> Sqe {
    Sqe::create_io_cq(qid, 7, 0x1000, CreateCqDw11::new().with_pc(true).with_ien(true).with_iv(qid))
}

fn create_sq(qid: u16, cqid: u16) -> Sqe {
    Sqe::create_io_sq(qid, 7, 0x2000, CreateSqDw11::new().with_pc(true).with_cqid(cqid))
}

/// Identify Controller, which gives the host data.
fn identify() -> Sqe {
    Sqe::identify(Cns::CONTROLLER, 0)
}

/// Set Features of the Timestamp, which takes data from the host.
fn set_timestamp() -> Sqe {
    Sqe::set_features(FeatureId::TIMESTAMP, 0)
}

fn shadow_doorbells() -> Sqe {
    Sqe::admin(AdminOpcode::DOORBELL_BUFFER_CONFIG).with_prps(0x5000, 0x6000)
}

/// Set Features that asks for notices about namespaces.
fn want_namespace_notices() -> Sqe {
    let notices = AsyncEventConfiguration::new().with_nan(true);
    Sqe::set_features(FeatureId::ASYNC_EVENT_CONFIGURATION, notices.into_bits())
}

/// Set Features of interrupt coalescing.
fn coalesce(coalescing: InterruptCoalescing) -> Sqe {
    Sqe::set_features(FeatureId::INTERRUPT_COALESCING, coalescing.into_bits())
}
