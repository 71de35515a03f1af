//! Writes the scripts that fuzzing begins with: `seeds FOLDER` fills `FOLDER/wire`, `FOLDER/controller` and
//! `FOLDER/pool`.
//!
//! Each of them does one thing that a well-behaved client, guest or pool does, or nearly does: the fuzzer finds the rest from
//! there.

#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

use std::path::Path;
use std::{env, fs, io};

use nvme_spec::admin::{CreateCqDw11, CreateSqDw11};
use nvme_spec::command::{SglId, SglType};
use nvme_spec::feature::{AsyncEventConfiguration, FeatureId, InterruptCoalescing};
use nvme_spec::identify::Cns;
use nvme_spec::log::LogId;
use nvme_spec::nvm::{BlockDw12, DsmDw11, DsmRange};
use nvme_spec::register::{Aqa, Cc, Register, ShutdownNotification};
use nvme_spec::{AdminOpcode, CommandFlags, Cqe, SglDescriptor, Sqe};

use vfio_user_ctrl_fuzz::script::Writer;
use vfio_user_ctrl_fuzz::{controller, pool, wire};
use zerocopy::transmute;

type Seeds = Vec<(&'static str, Writer)>;

fn main() -> io::Result<()> {
    let folder = env::args().nth(1).ok_or_else(|| io::Error::other("usage: seeds FOLDER"))?;
    for (target, seeds) in [("wire", wire_seeds()), ("controller", controller_seeds()), ("pool", pool_seeds())] {
        let folder = Path::new(&folder).join(target);
        fs::create_dir_all(&folder)?;
        for (name, seed) in seeds {
            fs::write(folder.join(format!("seed-{name}")), seed.0)?;
        }
    }
    Ok(())
}

fn w() -> Writer {
    Writer::default()
}

fn negotiated() -> Writer {
    let json = br#"{"capabilities":{"max_msg_fds":4,"max_data_xfer_size":4096,"write_multiple":true}}"#;
    let version = w().step(wire::step::VERSION).u8(1).u16(1).u16(json.len() as u16).bytes(json);
    send(version, 0)
}

fn send(messages: Writer, files: u8) -> Writer {
    messages.step(wire::step::SEND_ALL).u8(files)
}

fn wire_seeds() -> Seeds {
    use wire::step as s;
    let answer = || w().step(s::ANSWER).u8(0).u8(0);
    let map = w().step(s::MAP).u8(2).u64(0x1000).u64(0x2000).u64(0);
    let unmap = w().step(s::UNMAP).u8(3).u64(0x1000).u64(0x2000).u8(0);
    let irqs = |flags, count: u32| w().step(s::SET_IRQS).u8(4).u8(2).u8(flags).u8(0).u32(count);
    let asked = w().step(s::INFO).u8(5).step(s::REGION_INFO).u8(6).u8(0).u8(64).step(s::IRQ_INFO).u8(7).u8(2);
    let asked = asked.step(s::REGION_IO_FDS).u8(8).u8(0).step(s::REGION_INFO).u8(9).u8(7).u8(32);
    let accesses = w().step(s::READ).u8(1).u8(0).u16(0).u32(64).step(s::READ).u8(2).u8(7).u16(0).u32(256);
    let accesses = accesses.step(s::WRITE).u8(3).u8(0).u16(0x14).u8(4).bytes(&[1, 0, 0x46, 0]);
    let multi = w().step(s::WRITE_MULTI).u8(4).u8(2).u8(0).u16(0x1000).u8(4).bytes(&[1, 0, 0, 0]);
    let multi = multi.u8(0).u16(0x1004).u8(8).bytes(&[2; 8]);
    let pieces = (0..40).fold(map.clone(), |pieces, i| pieces.step(s::SEND).u16(i).u8((i == 3).into()).step(s::WORK));
    let dma = w().step(s::DMA_READ).u64(0x5000).u32(10_000).step(s::DMA_WRITE).u64(0x9000).u16(100);
    let replies = w().step(s::READ_REPLY).u8(0).u64(0x5000).u16(4096).step(s::WRITE_REPLY).u8(1).u64(0x9000).u64(400);
    let replies = replies.step(s::READ_REPLY).u8(2).u64(0x6000).u16(4096).step(s::ERROR_REPLY).u8(3).u16(11).u32(5);
    let lazy = (0..200).fold(negotiated(), |lazy, i| send(lazy.step(s::INFO).u8(i), 0));
    vec![
        ("negotiation", negotiated()),
        ("not-negotiated", send(w().step(s::RESET).u8(1), 0)),
        ("questions", negotiated().then(&send(asked, 0)).step(s::TAKE).u16(20).step(s::TAKE).u16(2000)),
        ("map-unmap", negotiated().then(&send(map, 1)).then(&answer()).then(&send(unmap, 0)).then(&answer())),
        ("in-pieces", negotiated().then(&pieces).then(&answer())),
        (
            "interrupts",
            negotiated().then(&send(irqs(0x24, 3).u8(0), 3)).then(&send(irqs(0x22, 2).u8(2).bytes(&[1, 0]), 0)),
        ),
        ("no-interrupts", negotiated().then(&send(irqs(0x21, 0).u8(0), 0)).then(&answer())),
        ("accesses", negotiated().then(&send(accesses, 0))),
        ("no-reply", negotiated().then(&send(multi.step(s::NO_REPLY), 0))),
        ("spoilt", negotiated().then(&send(w().step(s::INFO).u8(1).step(s::SPOIL).u8(4).u8(0x40), 0))),
        ("reset", negotiated().then(&send(w().step(s::RESET).u8(1).step(s::RESET).u8(2), 0)).then(&answer())),
        ("transfers", negotiated().then(&dma).step(s::TAKE).u16(9000).then(&send(replies, 0)).step(s::WORK)),
        ("reads-nothing", lazy),
    ]
}

/// A connection with these digests and so many bytes in capsules, in units of 32, that is set up.
fn connection(digests: u8, in_capsule: u8) -> Writer {
    use pool::step as s;
    let begin = Writer(vec![digests, 7, 1, in_capsule]).step(s::SEND_ALL);
    begin.step(s::IC_RESP).u8(digests).u8(0).u32(8192).step(s::RECEIVE_ALL)
}

fn pool_seeds() -> Seeds {
    use pool::step as s;
    let sent = |w: Writer| w.step(s::SEND_ALL);
    let read = |dwords| w().step(s::READ).u16(dwords);
    let write = |dwords| w().step(s::WRITE).u16(dwords);
    let data = |at, flags, dwords| w().step(s::DATA).u8(at).u8(flags).u16(dwords);
    let request = |at, dwords| w().step(s::R2T).u8(at).u16(7).u16(dwords);
    let response = |at| w().step(s::RESPONSE).u8(at).u16(0);
    let come = || w().step(s::RECEIVE_ALL);
    let one_read = |digests| sent(connection(digests, 0).then(&read(128)));
    let one_write = |digests| sent(connection(digests, 0).then(&write(4096)));
    let asked = |digests| one_write(digests).then(&request(0, 1024)).then(&request(0, 3072)).then(&come());
    let many = (0..8).fold(connection(0, 0), |w, _| w.then(&read(64)).then(&write(64)));
    let torn = (0..40).fold(one_read(3).then(&data(0, 1, 128)).then(&response(0)), |w, i| w.step(s::RECEIVE).u16(i));
    let in_place = one_read(3).then(&data(0, 3, 128)).step(s::RECEIVE).u16(40);
    let in_place = in_place.step(s::RECEIVE_IN_PLACE).u16(100).step(s::RECEIVE_IN_PLACE).u16(1000).then(&come());
    vec![
        ("read", one_read(0).then(&data(0, 1, 128)).then(&response(0)).then(&come())),
        ("read-digests", one_read(3).then(&data(0, 0, 64)).then(&data(0, 1, 64)).then(&response(0)).then(&come())),
        ("read-success", one_read(2).then(&data(0, 3, 128)).then(&come())),
        ("read-torn", torn),
        ("read-in-place", in_place),
        ("read-short", one_read(0).then(&data(0, 1, 64)).then(&response(0)).then(&come())),
        ("read-at", one_read(0).step(s::DATA_AT).u8(0).u32(256).u8(1).u16(64).then(&come())),
        ("write-in-capsule", sent(connection(3, 128).then(&write(512))).then(&response(0)).then(&come())),
        ("write-r2t", sent(asked(0)).then(&response(0)).then(&come())),
        ("write-digests", sent(asked(3)).then(&response(0)).then(&come())),
        ("write-in-pieces", asked(1).step(s::SEND).u16(30).step(s::SEND).u16(9000).then(&response(0)).then(&come())),
        ("write-at", one_write(0).step(s::R2T_AT).u8(0).u32(4).u16(1).u16(64).then(&come())),
        ("answered-twice", one_read(0).then(&data(0, 3, 128)).then(&come()).then(&response(0)).then(&come())),
        ("again", one_read(0).then(&data(0, 0, 64)).step(s::AGAIN).then(&response(0)).then(&come())),
        ("spoilt", one_read(3).then(&data(0, 3, 128)).step(s::SPOIL).u8(60).u8(4).then(&come())),
        ("terminated", one_read(0).step(s::TERM_REQ).u16(2).then(&come())),
        ("detached", one_read(0).step(s::DETACH).u8(0).then(&data(0, 1, 128)).then(&response(0)).then(&come())),
        ("full", sent(many).then(&data(0, 3, 64)).then(&request(1, 64)).then(&come()).step(s::SEND_ALL)),
        ("closed", one_read(0).then(&data(0, 1, 128)).step(s::RECEIVE).u16(100).step(s::CLOSE)),
    ]
}

/// Returns the address of a page of the largest part of memory.
fn page(w: Writer, page: u16) -> Writer {
    w.u8(12).u16(page)
}

/// Returns a command for a queue: its opcode, flags, namespace and dwords 10 to 12 are those of `sqe`. Its data is in these
/// pages.
fn command(qid: u8, cid: u8, sqe: &Sqe, pages: [u16; 2]) -> Writer {
    // A namespace is a byte, of which the greatest stands for all.
    let nsid = u8::try_from(sqe.nsid).unwrap_or(u8::MAX);
    let w = w().step(controller::step::COMMAND).u8(qid).u8(sqe.opcode).u8(sqe.flags.into_bits()).u8(cid).u8(nsid);
    let w = page(page(w, pages[0]), pages[1]);
    [sqe.cdw10, sqe.cdw11, sqe.cdw12].into_iter().fold(w, Writer::u32)
}

fn admin(cid: u8, sqe: &Sqe) -> Writer {
    command(0, cid, sqe, [20, 21]).step(controller::step::POLL)
}

fn poll() -> Writer {
    w().step(controller::step::POLL)
}

fn finish(disk: u8) -> Writer {
    w().step(controller::step::FINISH).u8(disk).u8(0)
}

/// The end of a round: completions are posted and taken.
fn reap(qid: u8) -> Writer {
    poll().step(controller::step::REAP).u8(qid)
}

/// Returns the beginning of the step that writes to a register, or to what is no register: its place, and a power of two for the bytes.
fn begin_write(place: Register, log2: u8) -> Writer {
    w().step(controller::step::WRITE_BAR0).u16(place.0 as u16).u8(log2)
}

fn write_dword(register: Register, value: u32) -> Writer {
    begin_write(register, 2).u32(value)
}

fn write_quad(register: Register, value: u64) -> Writer {
    begin_write(register, 3).u64(value)
}

fn host_queue(qid: u8, sq: u16, cq: u16) -> Writer {
    page(page(w().step(controller::step::HOST_QUEUE), sq), cq).u8(15).u8(qid)
}

/// CC with the sizes of entries that a host sets.
const CC: Cc = Cc::new().with_iosqes(Sqe::SIZE_LOG2).with_iocqes(Cqe::SIZE_LOG2);

/// The controller is enabled, with admin queues of 16 entries on pages 1 and 2.
fn enabled() -> Writer {
    let aqa = write_dword(Register::AQA, Aqa::new().with_asqs(15).with_acqs(15).into_bits());
    let cc = write_dword(Register::CC, CC.with_en(true).into_bits());
    let base = aqa.then(&write_quad(Register::ASQ, 0x1000)).then(&write_quad(Register::ACQ, 0x2000)).then(&cc);
    base.then(&host_queue(0, 1, 2)).then(&poll())
}

/// Returns a pair of I/O queues of 16 entries.
fn pair(qid: u8) -> Writer {
    let (sq, cq) = (3 + 2 * u16::from(qid), 4 + 2 * u16::from(qid));
    let to = CreateCqDw11::new().with_pc(true).with_ien(true).with_iv(qid.into());
    let of = CreateSqDw11::new().with_pc(true).with_cqid(qid.into());
    let completion = command(0, 1, &Sqe::create_io_cq(qid.into(), 15, 0, to), [cq, 0]).then(&poll()).then(&poll());
    let submission = command(0, 2, &Sqe::create_io_sq(qid.into(), 15, 0, of), [sq, 0]).then(&poll());
    completion.then(&submission).then(&reap(0)).then(&host_queue(qid, sq, cq))
}

fn with_queues() -> Writer {
    enabled().then(&pair(1)).then(&pair(2))
}

fn read(cid: u8, slba: u64, blocks: u16) -> Writer {
    command(1, cid, &Sqe::read(1, slba, BlockDw12::of(blocks - 1)), [24, 25])
}

fn write(cid: u8, slba: u64, blocks: u16) -> Writer {
    command(1, cid, &Sqe::write(1, slba, BlockDw12::of(blocks - 1)), [26, 27])
}

/// Returns a descriptor, as two quad words.
fn descriptor(kind: SglType, address: u64, length: u32) -> [u64; 2] {
    let id = SglId::new().with_kind(kind);
    SglDescriptor { address, length, id, ..SglDescriptor::default() }.into_dptr()
}

/// Puts quad words at the beginning of a page.
fn memory(at: u16, words: &[u64]) -> Writer {
    let w = page(w().step(controller::step::MEMORY), at).u8(words.len() as u8 * 8);
    words.iter().fold(w, |w, word| w.u64(*word))
}

/// Returns the same command with its data named by an SGL: the type and the length of its first descriptor.
fn by_sgl(mut w: Writer, kind: SglType, length: u16) -> Writer {
    // Step, queue, opcode, flags; identifier, namespace; two addresses of 3 bytes each; dwords.
    w.0[3] = CommandFlags::SGL.into_bits();
    // An address of the lowest part of memory is the length.
    w.0[9..12].copy_from_slice(&[0, length.to_le_bytes()[0], length.to_le_bytes()[1]]);
    w.0.insert(12, SglId::new().with_kind(kind).into_bits());
    w
}

fn controller_seeds() -> Seeds {
    let mut seeds = admin_seeds();
    seeds.extend(io_seeds());
    seeds.extend(memory_seeds());
    seeds
}

/// The structures that Identify is asked for.
const STRUCTURES: [Cns; 11] = [
    Cns::NAMESPACE,
    Cns::CONTROLLER,
    Cns::ACTIVE_NAMESPACES,
    Cns::NAMESPACE_DESCRIPTORS,
    Cns::COMMAND_SET_NAMESPACE,
    Cns::COMMAND_SET_CONTROLLER,
    Cns::COMMAND_SET_ACTIVE_NAMESPACES,
    Cns::INDEPENDENT_NAMESPACE,
    Cns::ALLOCATED_NAMESPACES,
    Cns::ALLOCATED_NAMESPACE,
    Cns::COMMAND_SETS,
];

/// The features that are set and asked for.
const FEATURES: [FeatureId; 14] = [
    FeatureId::ARBITRATION,
    FeatureId::POWER_MANAGEMENT,
    FeatureId::TEMPERATURE_THRESHOLD,
    FeatureId::ERROR_RECOVERY,
    FeatureId::VOLATILE_WRITE_CACHE,
    FeatureId::NUMBER_OF_QUEUES,
    FeatureId::INTERRUPT_COALESCING,
    FeatureId::INTERRUPT_VECTOR_CONFIGURATION,
    FeatureId::WRITE_ATOMICITY,
    FeatureId::ASYNC_EVENT_CONFIGURATION,
    FeatureId::AUTONOMOUS_POWER_STATE_TRANSITION,
    FeatureId::TIMESTAMP,
    FeatureId::KEEP_ALIVE_TIMER,
    FeatureId::HOST_CONTROLLED_THERMAL_MANAGEMENT,
];

/// The logs that are read.
const LOGS: [LogId; 6] = [
    LogId::ERROR_INFORMATION,
    LogId::SMART,
    LogId::FIRMWARE_SLOT,
    LogId::CHANGED_NAMESPACE_LIST,
    LogId::COMMAND_EFFECTS,
    LogId::ANA,
];

fn admin_seeds() -> Seeds {
    use controller::step as s;
    fn all<T: Copy>(values: &[T], sqe: impl Fn(T) -> Sqe) -> Writer {
        let sqes = values.iter().map(|value| sqe(*value));
        sqes.zip(0..).fold(enabled(), |w, (sqe, cid)| w.then(&admin(cid, &sqe)).then(&reap(0)))
    }
    let aer = |cid| admin(cid, &Sqe::async_event_request());
    let delete = |sqe| admin(9, &sqe).then(&poll()).then(&reap(0));
    let (submission, completion) = (delete(Sqe::delete_io_sq(1)), || delete(Sqe::delete_io_cq(1)));
    let notices = AsyncEventConfiguration::new().with_nan(true);
    let notices = Sqe::set_features(FeatureId::ASYNC_EVENT_CONFIGURATION, notices.into_bits());
    let keep_alive = Sqe::set_features(FeatureId::KEEP_ALIVE_TIMER, 1000);
    let namespaces = w().step(s::REMOVE_NAMESPACE).u8(1).step(s::ADD_NAMESPACE).u8(1);
    let namespaces = namespaces.step(s::RESIZE_NAMESPACE).u8(0).u64(99).then(&poll());
    let reset = write_dword(Register::CC, CC.into_bits());
    let shutdown = CC.with_en(true).with_shn(ShutdownNotification::NORMAL);
    let shutdown = write_dword(Register::CC, shutdown.into_bits());
    let registers = w().step(s::READ_BAR0).u16(0).u8(39).step(s::READ_CONFIG).u16(0).u8(39);
    let registers = registers.step(s::WRITE_CONFIG).u16(4).u8(1).u16(6).then(&begin_write(Register(0x2000), 4).u64(9));
    vec![
        ("registers", registers.then(&write_quad(Register(0xffc), 7)).then(&write_quad(Register(0x1ffc), 7))),
        ("enable", enabled()),
        ("reset", with_queues().then(&read(1, 0, 1)).then(&poll()).then(&reset).then(&poll()).then(&enabled())),
        ("shutdown", with_queues().then(&shutdown).then(&poll())),
        ("function-reset", with_queues().step(s::WRITE_CONFIG).u16(0x69).u8(0).u8(0x80).step(s::DEVICE_RESET)),
        ("identify", all(&STRUCTURES, |cns| Sqe::identify(cns, 1))),
        ("get-features", all(&FEATURES, Sqe::get_features)),
        ("set-features", all(&FEATURES, |fid| Sqe::set_features(fid, 11))),
        ("log-pages", all(&LOGS, |lid| Sqe::get_log_page(lid, 0, 512))),
        ("events", enabled().then(&admin(1, &notices)).then(&aer(2)).then(&aer(3)).then(&namespaces)),
        ("abort-event", enabled().then(&aer(2)).then(&admin(3, &Sqe::abort(0, 2))).then(&reap(0))),
        ("delete-queues", with_queues().then(&submission).then(&completion()).then(&pair(1)).then(&completion())),
        ("keep-alive", enabled().then(&admin(1, &keep_alive)).step(s::TICK).u32(9_000_000).then(&poll())),
        ("reconnect", with_queues().then(&read(1, 0, 1)).then(&poll()).step(s::RECONNECT).then(&with_queues())),
    ]
}

fn io_seeds() -> Seeds {
    use controller::step as s;
    let done = || finish(0).then(&finish(0)).then(&reap(1));
    let run = |w: Writer| with_queues().then(&w).then(&poll()).then(&done());
    let list: Vec<u64> = (30..45).map(|page| page * 4096).collect();
    let prps = memory(25, &list).then(&read(1, 0, 100));
    let data_block = |page: u64, len| descriptor(SglType::DATA_BLOCK, page * 4096, len);
    let segment = [data_block(30, 4096), data_block(40, 512), data_block(35, 3584)].concat();
    let sgl = memory(24, &segment).then(&by_sgl(read(1, 0, 16), SglType::LAST_SEGMENT, 48));
    let chain = descriptor(SglType::SEGMENT, 24 * 4096, 16);
    let looped = memory(24, &chain).then(&by_sgl(read(1, 0, 16), SglType::SEGMENT, 16));
    let block = by_sgl(write(1, 0, 2), SglType::DATA_BLOCK, 1024);
    let range = |slba, nlb| -> [u64; 2] { transmute!(DsmRange { context_attributes: 0, nlb, slba }) };
    let ranges = [range(0, 1), range(8, 2), range(100, 1)].concat();
    let deallocate = Sqe::dataset_management(1, 2, DsmDw11::new().with_ad(true));
    let dsm = memory(28, &ranges).then(&command(1, 1, &deallocate, [28, 0]));
    let (first, second) = (CommandFlags::FUSED_FIRST, CommandFlags::FUSED_SECOND);
    let nlb = BlockDw12::of(3);
    let compare = command(1, 1, &Sqe::compare(1, 8, nlb).with_flags(first), [24, 25]);
    let fused = compare.clone().then(&command(1, 2, &Sqe::write(1, 8, nlb).with_flags(second), [26, 27]));
    let zeroes = Sqe::write_zeroes(2, 0, BlockDw12::of(7));
    let others = command(1, 1, &Sqe::flush(1), [0, 0]).then(&command(1, 2, &zeroes, [0, 0]));
    let bells = (1..8).fold(w(), |w, i| w.step(s::DOORBELL).u8(i).u32(u32::from(i) * 3));
    let shadow = admin(5, &Sqe::admin(AdminOpcode::DOORBELL_BUFFER_CONFIG))
        .then(&page(w().step(s::MEMORY), 20).u8(16))
        .u64(0)
        .u64(1);
    let aborts = |how| {
        let abort = |cid| admin(cid, &Sqe::abort(1, 7));
        read(7, 0, 1).then(&poll()).step(s::BACKEND).u8(0).u8(how).then(&abort(3)).then(&abort(4)).then(&finish(0))
    };
    let stuck = dsm.clone().then(&poll()).then(&admin(8, &Sqe::delete_io_sq(1))).step(s::BACKEND).u8(0).u8(2);
    let many = (0..15).fold(w(), |w, i| w.then(&read(i, i.into(), 1)));
    let delete = many.clone().then(&poll()).then(&admin(8, &Sqe::delete_io_sq(1))).then(&finish(0)).then(&poll());
    let later = w().step(s::BACKEND).u8(0).u8(6).then(&many).then(&poll()).then(&poll()).then(&poll());
    let at_once = w().step(s::BACKEND).u8(0).u8(1).then(&many).then(&reap(1)).then(&many);
    let coalescing = InterruptCoalescing::new().with_thr(3).with_time(10);
    let coalescing = Sqe::set_features(FeatureId::INTERRUPT_COALESCING, coalescing.into_bits());
    let interrupts = w().step(s::EVENTFDS).u8(0).u8(5).then(&admin(6, &coalescing)).then(&many);
    vec![
        ("read-write", run(write(1, 0, 16).then(&read(2, 0, 16)))),
        ("prp-list", run(prps)),
        ("sgl", run(sgl)),
        ("sgl-loop", run(looped)),
        ("sgl-block", run(block)),
        ("deallocate", run(dsm)),
        ("fused", run(fused)),
        ("half-fused", run(compare).then(&admin(8, &Sqe::delete_io_sq(1))).then(&poll())),
        ("other-commands", run(others)),
        ("doorbells", run(bells)),
        ("shadow-doorbells", run(shadow)),
        ("abort", run(aborts(0x10))),
        ("abort-later", run(aborts(0x20))),
        ("abort-refused", run(aborts(0))),
        ("deallocate-deleted", run(stuck.then(&finish(0)))),
        ("full", run(many)),
        ("delete-in-flight", run(delete)),
        ("refused", run(later)),
        ("at-once", run(at_once)),
        ("interrupts", run(interrupts).step(s::TICK).u32(2000).then(&poll())),
        ("namespace-goes", run(read(1, 0, 1).then(&poll()).step(s::REMOVE_NAMESPACE).u8(0))),
    ]
}

fn memory_seeds() -> Seeds {
    use controller::step as s;
    let in_flight = || with_queues().then(&read(1, 0, 8)).then(&write(2, 8, 8)).then(&poll());
    let unmap = |part| w().step(s::UNMAP).u8(part);
    let map = |part| w().step(s::MAP).u8(part);
    let any = |kind, gpa: u64| w().step(kind).u8(0xff).u64(gpa);
    let at = |place: u8, offset: u16| {
        let mut read = read(1, 0, 8);
        read.0[6..9].copy_from_slice(&[place, offset.to_le_bytes()[0], offset.to_le_bytes()[1]]);
        read
    };
    let places = [(8, 0), (9, 0), (10, 0xf000), (11, 0), (13, 0x800), (14, 15), (15, 0)];
    let odd = places.into_iter().fold(with_queues(), |w, (place, offset)| w.then(&at(place, offset)));
    let truncate = |pages: u8| in_flight().step(s::TRUNCATE).u8(0).u8(pages).then(&finish(0)).then(&finish(0));
    let scrap = any(s::MAP_ANY, 1 << 40).u64(0x4000).u64(0x1000).then(&any(s::MAP_ANY, 0).u64(0x4000).u64(0));
    let scrap = scrap.step(s::UNMAP_ANY).u8(1).u8(0xff).u64(1 << 40).u64(0x4000).step(s::UNMAP_ANY).u8(0);
    vec![
        ("unmap-in-flight", in_flight().then(&unmap(0)).then(&finish(0)).then(&finish(0)).then(&map(0)).then(&poll())),
        ("unmap-other", in_flight().then(&unmap(1)).then(&unmap(3)).then(&finish(0)).then(&map(3)).then(&map(1))),
        ("unmapped", in_flight().then(&unmap(0)).step(s::ABORT).u8(1).then(&finish(0)).then(&map(0)).then(&poll())),
        ("odd-places", odd.then(&poll()).then(&finish(0)).then(&finish(0)).then(&finish(0))),
        ("shrunk", truncate(148).then(&poll())),
        ("cut", truncate(20).then(&poll())),
        ("scrap", in_flight().then(&scrap)),
    ]
}
