//! The admin worker as its surroundings see it: inputs in, outputs out.

mod bench;
mod commands;
mod cycle;
mod namespaces;
mod random;

use std::time::Duration;

use super::*;
use crate::model::admin::tests::identity;
use crate::model::admin::{IoTotals, Limits, Namespace, QueueId, Supports};
use crate::model::regs::Version;
use bench::{Bench, DataTransfer};
use guest_memory::Fault;
use nvme_spec::{Sqe, Status};

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
        supports: Supports::default(),
        compare_and_write_blocks: 0,
        optimal_boundary_blocks: 0,
        preferred_write_blocks: 0,
        preferred_unmap_blocks: 0,
        write_protected: false,
    }
}

/// Admin commands (NVM Express Base Specification 2.0, section 5).
fn create_cq(qid: u32) -> Sqe {
    Sqe { opcode: 0x05, prp1: 0x1000, cdw10: 7 << 16 | qid, cdw11: qid << 16 | 0b11, ..Sqe::default() }
}

fn create_sq(qid: u32, cqid: u32) -> Sqe {
    Sqe { opcode: 0x01, prp1: 0x2000, cdw10: 7 << 16 | qid, cdw11: cqid << 16 | 1, ..Sqe::default() }
}

fn delete_sq(qid: u32) -> Sqe {
    Sqe { opcode: 0x00, cdw10: qid, ..Sqe::default() }
}

fn delete_cq(qid: u32) -> Sqe {
    Sqe { opcode: 0x04, cdw10: qid, ..Sqe::default() }
}

fn abort(sqid: u16, cid: u16) -> Sqe {
    Sqe { opcode: 0x08, cdw10: u32::from(cid) << 16 | u32::from(sqid), ..Sqe::default() }
}

fn request_event() -> Sqe {
    Sqe { opcode: 0x0c, ..Sqe::default() }
}

/// Identify Controller, which gives the host data.
fn identify() -> Sqe {
    Sqe { opcode: 0x06, cdw10: 1, ..Sqe::default() }
}

fn set_feature(fid: u32, cdw11: u32) -> Sqe {
    Sqe { opcode: 0x09, cdw10: fid, cdw11, ..Sqe::default() }
}

/// Set Features of the Timestamp, which takes data from the host.
fn set_timestamp() -> Sqe {
    set_feature(0x0e, 0)
}

fn shadow_doorbells() -> Sqe {
    Sqe { opcode: 0x7c, prp1: 0x5000, prp2: 0x6000, ..Sqe::default() }
}

/// Get Log Page.
fn get_log(lid: u32, len: u32) -> Sqe {
    Sqe { opcode: 0x02, nsid: u32::MAX, cdw10: (len / 4 - 1) << 16 | lid, ..Sqe::default() }
}
