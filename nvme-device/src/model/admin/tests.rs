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
use nvme_spec::admin::{
    AbortDw10, AbortResult, AsyncEvent, CreateCqDw11, CreateSqDw11, ErrorEvent, EventType, GetFeaturesDw10,
    GetLogPageDw10, IdentifyDw10, NoticeEvent, QueueDw10, SetFeaturesDw10, SmartEvent,
};
use nvme_spec::feature::{
    Arbitration, AsyncEventConfiguration, ErrorRecovery, FeatureCapabilities, FeatureId, FeatureSelect,
    InterruptCoalescing, InterruptVectorConfiguration, NumberOfQueues, PowerManagement, TemperatureThreshold,
    Timestamp, TimestampOrigin, VolatileWriteCache, WriteAtomicity,
};
use nvme_spec::identify::Cns;
use nvme_spec::log::{CriticalWarning, LogId};
use nvme_spec::{ALL_NAMESPACES, AdminOpcode};
use zerocopy::FromBytes;

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

/// Returns the structure that these bytes are.
fn structure<T: FromBytes>(bytes: &[u8]) -> T {
    T::read_from_bytes(bytes).expect("as many bytes as the structure has")
}

/// Returns the `N` bytes at `at`.
fn bytes<const N: usize>(data: &[u8], at: usize) -> [u8; N] {
    data[at..at + N].try_into().expect("as many bytes")
}

fn u32_at(data: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes(data, at))
}

fn u64_at(data: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes(data, at))
}

/// Returns dword 10 of a command that creates a queue.
fn queue(qid: u16, entries: u32) -> u32 {
    let qsize = u16::try_from(entries - 1).expect("0's based");
    QueueDw10::new().with_qid(qid).with_qsize(qsize).into_bits()
}

fn create_cq(qid: u16, entries: u32) -> Sqe {
    let cdw11 = CreateCqDw11::new().with_pc(true).with_ien(true).into_bits();
    Sqe { prp1: 0x1000, cdw10: queue(qid, entries), cdw11, ..command(Opcode::CreateIoCq) }
}

fn create_sq(qid: u16, entries: u32, cqid: u16) -> Sqe {
    let cdw11 = CreateSqDw11::new().with_pc(true).with_cqid(cqid).into_bits();
    Sqe { prp1: 0x2000, cdw10: queue(qid, entries), cdw11, ..command(Opcode::CreateIoSq) }
}

fn delete(opcode: Opcode, qid: u16) -> Sqe {
    Sqe { cdw10: QueueDw10::new().with_qid(qid).into_bits(), ..command(opcode) }
}

/// Makes queue pair `qid`.
fn make_pair(controller: &mut Controller, qid: u16) {
    assert!(matches!(controller.admin(&create_cq(qid, 8), NOW), Outcome::CreateCq(_)));
    controller.queue_created(QueueId::Cq(qid));
    assert!(matches!(controller.admin(&create_sq(qid, 8, qid), NOW), Outcome::CreateSq(_)));
    controller.queue_created(QueueId::Sq(qid));
}

/// Returns Get Log Page of so many bytes.
fn get_log(lid: LogId, len: u32) -> Sqe {
    let numdl = u16::try_from(len / 4 - 1).expect("less than 256 KiB");
    let cdw10 = GetLogPageDw10::new().with_lid(lid).with_numdl(numdl).into_bits();
    Sqe { nsid: ALL_NAMESPACES, cdw10, ..command(Opcode::GetLogPage) }
}

fn set_feature(fid: FeatureId, cdw11: u32) -> Sqe {
    Sqe { cdw10: SetFeaturesDw10::new().with_fid(fid).into_bits(), cdw11, ..command(Opcode::SetFeatures) }
}

fn get_feature(fid: FeatureId, cdw11: u32) -> Sqe {
    select_feature(fid, FeatureSelect::CURRENT, cdw11)
}

fn select_feature(fid: FeatureId, select: FeatureSelect, cdw11: u32) -> Sqe {
    let cdw10 = GetFeaturesDw10::new().with_fid(fid).with_sel(select).into_bits();
    Sqe { cdw10, cdw11, ..command(Opcode::GetFeatures) }
}

/// The host wants to hear of these events.
fn set_events(controller: &mut Controller, events: AsyncEventConfiguration) {
    let set = set_feature(FeatureId::ASYNC_EVENT_CONFIGURATION, events.into_bits());
    assert_eq!(dw0(controller.admin(&set, NOW)), 0);
}

fn request_event(cid: u16) -> Sqe {
    Sqe { cid, ..command(Opcode::AsynchronousEventRequest) }
}
