//! The admin model as a host sees it: commands in, outcomes out.
#![expect(clippy::panic, reason = "an outcome of another kind fails the test")]

mod commands;
mod events;
mod features;
mod hostile;
mod identify;
#[path = "../../../tests/common/identity.rs"]
mod identity;
mod logs;
mod queues;

pub(crate) use identity::identity;

use super::*;
use crate::model::io::IoSupport;
use nvme_spec::ALL_NAMESPACES;

const NOW: Duration = Duration::from_secs(100);

const LIMITS: Limits = Limits { max_queues: 4, max_queue_entries: 256, mdts: 5, vectors: 5, wzsl: 13 };

fn namespace(nsid: u32) -> Namespace {
    Namespace {
        nsid,
        blocks: 2048,
        block_shift: 12,
        uuid: [0x11; 16],
        nguid: [0x22; 16],
        eui64: [0x33; 8],
        supports: IoSupport::NONE,
        compare_and_write_blocks: 0,
        optimal_boundary_blocks: 0,
        preferred_write_blocks: 0,
        preferred_unmap_blocks: 0,
        write_protected: false,
    }
}

/// Returns a controller with namespaces 1 and 3, enabled and told its entry sizes.
fn controller() -> Controller {
    let mut controller = Controller::new(identity(), LIMITS).expect("valid limits");
    controller.add_namespace(namespace(1)).expect("free");
    controller.add_namespace(namespace(3)).expect("free");
    controller.enable(NOW);
    controller.set_entry_sizes(6, 4);
    controller
}

fn command(opcode: Opcode) -> Sqe {
    Sqe { opcode: opcode as u8, cid: 9, ..Sqe::default() }
}

fn status(outcome: Outcome) -> Status {
    match outcome {
        Outcome::Done { dw0: 0, status } if !status.is_success() => status,
        other => panic!("not a failure: {other:?}"),
    }
}

fn dw0(outcome: Outcome) -> u32 {
    match outcome {
        Outcome::Done { dw0, status } if status.is_success() => dw0,
        other => panic!("not a success: {other:?}"),
    }
}

fn data(outcome: Outcome) -> Vec<u8> {
    match outcome {
        Outcome::Data { data, dw0: 0 } => data,
        other => panic!("not data: {other:?}"),
    }
}

/// Returns the `N` bytes at `at`.
fn bytes<const N: usize>(data: &[u8], at: usize) -> [u8; N] {
    data[at..at + N].try_into().expect("as many bytes")
}

fn u16_at(data: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes(data, at))
}

fn u32_at(data: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes(data, at))
}

fn u64_at(data: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes(data, at))
}

fn create_cq(qid: u32, entries: u32) -> Sqe {
    Sqe { prp1: 0x1000, cdw10: (entries - 1) << 16 | qid, cdw11: 0b11, ..command(Opcode::CreateIoCq) }
}

fn create_sq(qid: u32, entries: u32, cqid: u32) -> Sqe {
    Sqe { prp1: 0x2000, cdw10: (entries - 1) << 16 | qid, cdw11: cqid << 16 | 1, ..command(Opcode::CreateIoSq) }
}

fn delete(opcode: Opcode, qid: u32) -> Sqe {
    Sqe { cdw10: qid, ..command(opcode) }
}

/// Makes queue pair `qid`.
fn make_pair(controller: &mut Controller, qid: u16) {
    let id = u32::from(qid);
    assert!(matches!(controller.admin(&create_cq(id, 8), NOW), Outcome::CreateCq(_)));
    controller.queue_created(QueueId::Cq(qid));
    assert!(matches!(controller.admin(&create_sq(id, 8, id), NOW), Outcome::CreateSq(_)));
    controller.queue_created(QueueId::Sq(qid));
}

fn get_log(lid: u32, len: u32) -> Sqe {
    Sqe { nsid: ALL_NAMESPACES, cdw10: (len / 4 - 1) << 16 | lid, ..command(Opcode::GetLogPage) }
}

fn set_feature(fid: u32, cdw11: u32) -> Sqe {
    Sqe { cdw10: fid, cdw11, ..command(Opcode::SetFeatures) }
}

fn get_feature(fid: u32, cdw11: u32) -> Sqe {
    Sqe { cdw10: fid, cdw11, ..command(Opcode::GetFeatures) }
}

fn request_event(cid: u16) -> Sqe {
    Sqe { cid, ..command(Opcode::AsynchronousEventRequest) }
}
