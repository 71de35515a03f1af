//! Writes the scripts that fuzzing begins with: `seeds FOLDER` fills `FOLDER/wire` and `FOLDER/controller`.
//!
//! Each of them does one thing that a well-behaved client or guest does, or nearly does: the fuzzer finds the rest from
//! there.

#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

use std::path::Path;
use std::{env, fs, io};

use vfio_user_ctrl_fuzz::script::Writer;
use vfio_user_ctrl_fuzz::{controller, wire};

type Seeds = Vec<(&'static str, Writer)>;

fn main() -> io::Result<()> {
    let folder = env::args().nth(1).ok_or_else(|| io::Error::other("usage: seeds FOLDER"))?;
    for (target, seeds) in [("wire", wire_seeds()), ("controller", controller_seeds())] {
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

/// Returns the address of a page of the largest part of memory.
fn page(w: Writer, page: u16) -> Writer {
    w.u8(12).u16(page)
}

/// Returns a command: queue, opcode, identifier, namespace; pages of its data; dwords 10 to 12.
fn command(qid: u8, opcode: u8, cid: u8, nsid: u8, pages: [u16; 2], dwords: [u32; 3]) -> Writer {
    let w = w().step(controller::step::COMMAND).u8(qid).u8(opcode).u8(0).u8(cid).u8(nsid);
    let w = page(page(w, pages[0]), pages[1]);
    dwords.into_iter().fold(w, Writer::u32)
}

fn admin(opcode: u8, cid: u8, nsid: u8, dwords: [u32; 3]) -> Writer {
    command(0, opcode, cid, nsid, [20, 21], dwords).step(controller::step::POLL)
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

fn write_bar0(offset: u16, value: u64) -> Writer {
    w().step(controller::step::WRITE_BAR0).u16(offset).u8(3).u64(value)
}

fn host_queue(qid: u8, sq: u16, cq: u16) -> Writer {
    page(page(w().step(controller::step::HOST_QUEUE), sq), cq).u8(15).u8(qid)
}

/// The controller is enabled, with admin queues of 16 entries on pages 1 and 2.
fn enabled() -> Writer {
    let aqa = w().step(controller::step::WRITE_BAR0).u16(0x24).u8(2).u32(15 << 16 | 15);
    let cc = w().step(controller::step::WRITE_BAR0).u16(0x14).u8(2).u32(4 << 20 | 6 << 16 | 1);
    let base = aqa.then(&write_bar0(0x28, 0x1000)).then(&write_bar0(0x30, 0x2000)).then(&cc);
    base.then(&host_queue(0, 1, 2)).then(&poll())
}

/// Returns a pair of I/O queues of 16 entries.
fn pair(qid: u8) -> Writer {
    let (sq, cq) = (3 + 2 * u16::from(qid), 4 + 2 * u16::from(qid));
    let id = 15 << 16 | u32::from(qid);
    let vector = u32::from(qid) << 16 | 3;
    let completion = command(0, 5, 1, 0, [cq, 0], [id, vector, 0]).then(&poll()).then(&poll());
    let submission = command(0, 1, 2, 0, [sq, 0], [id, u32::from(qid) << 16 | 1, 0]).then(&poll());
    completion.then(&submission).then(&reap(0)).then(&host_queue(qid, sq, cq))
}

fn with_queues() -> Writer {
    enabled().then(&pair(1)).then(&pair(2))
}

fn read(cid: u8, slba: u32, blocks: u32) -> Writer {
    command(1, 2, cid, 1, [24, 25], [slba, 0, blocks - 1])
}

fn write(cid: u8, slba: u32, blocks: u32) -> Writer {
    command(1, 1, cid, 1, [26, 27], [slba, 0, blocks - 1])
}

/// Puts quad words at the beginning of a page.
fn memory(at: u16, words: &[u64]) -> Writer {
    let w = page(w().step(controller::step::MEMORY), at).u8(words.len() as u8 * 8);
    words.iter().fold(w, |w, word| w.u64(*word))
}

/// Returns the same command with other flags, and the type of an SGL's first descriptor.
fn with_flags(mut w: Writer, flags: u8, descriptor: Option<(u8, u16)>) -> Writer {
    // Step, queue, opcode, flags; identifier, namespace; two addresses of 3 bytes each; dwords.
    w.0[3] = flags;
    if let Some((kind, length)) = descriptor {
        // An address of the lowest part of memory is the length.
        w.0[9..12].copy_from_slice(&[0, length.to_le_bytes()[0], length.to_le_bytes()[1]]);
        w.0.insert(12, kind);
    }
    w
}

fn controller_seeds() -> Seeds {
    let mut seeds = admin_seeds();
    seeds.extend(io_seeds());
    seeds.extend(memory_seeds());
    seeds
}

fn admin_seeds() -> Seeds {
    use controller::step as s;
    let all = |opcode, nsid, dword11, values: &[u32]| {
        let add = |w: Writer, (i, value): (usize, &u32)| {
            w.then(&admin(opcode, i as u8, nsid, [*value, dword11, 0])).then(&reap(0))
        };
        values.iter().enumerate().fold(enabled(), add)
    };
    let logs = [0x01, 0x02, 0x03, 0x04, 0x05, 0x0c].map(|lid| 127 << 16 | lid);
    let aer = |cid| admin(0x0c, cid, 0, [0; 3]);
    let delete = |opcode, qid| admin(opcode, 9, 0, [qid, 0, 0]).then(&poll()).then(&reap(0));
    let namespaces = w().step(s::REMOVE_NAMESPACE).u8(1).step(s::ADD_NAMESPACE).u8(1);
    let namespaces = namespaces.step(s::RESIZE_NAMESPACE).u8(0).u64(99).then(&poll());
    let reset = w().step(s::WRITE_BAR0).u16(0x14).u8(2).u32(4 << 20 | 6 << 16);
    let shutdown = w().step(s::WRITE_BAR0).u16(0x14).u8(2).u32(4 << 20 | 6 << 16 | 1 << 14 | 1);
    let registers = w().step(s::READ_BAR0).u16(0).u8(39).step(s::READ_CONFIG).u16(0).u8(39);
    let registers = registers.step(s::WRITE_CONFIG).u16(4).u8(1).u16(6).step(s::WRITE_BAR0).u16(0x2000).u8(4).u64(9);
    vec![
        ("registers", registers.then(&write_bar0(0xffc, 7)).then(&write_bar0(0x1ffc, 7))),
        ("enable", enabled()),
        ("reset", with_queues().then(&read(1, 0, 1)).then(&poll()).then(&reset).then(&poll()).then(&enabled())),
        ("shutdown", with_queues().then(&shutdown).then(&poll())),
        ("function-reset", with_queues().step(s::WRITE_CONFIG).u16(0x69).u8(0).u8(0x80).step(s::DEVICE_RESET)),
        ("identify", all(6, 1, 0, &[0, 1, 2, 3, 5, 6, 7, 8, 0x10, 0x11, 0x1c])),
        ("get-features", all(0x0a, 0, 0, &[1, 2, 4, 5, 6, 7, 8, 9, 0x0a, 0x0b, 0x0c, 0x0e, 0x0f, 0x10])),
        ("set-features", all(0x09, 0, 11, &[1, 2, 4, 5, 6, 7, 8, 9, 0x0a, 0x0b, 0x0c, 0x0e, 0x0f, 0x10])),
        ("log-pages", all(0x02, 0xff, 0, &logs)),
        ("events", enabled().then(&admin(9, 1, 0, [0x0b, 0x100, 0])).then(&aer(2)).then(&aer(3)).then(&namespaces)),
        ("abort-event", enabled().then(&aer(2)).then(&admin(8, 3, 0, [2 << 16, 0, 0])).then(&reap(0))),
        ("delete-queues", with_queues().then(&delete(0, 1)).then(&delete(4, 1)).then(&pair(1)).then(&delete(4, 1))),
        ("keep-alive", enabled().then(&admin(9, 1, 0, [0x0f, 1000, 0])).step(s::TICK).u32(9_000_000).then(&poll())),
        ("reconnect", with_queues().then(&read(1, 0, 1)).then(&poll()).step(s::RECONNECT).then(&with_queues())),
    ]
}

fn io_seeds() -> Seeds {
    use controller::step as s;
    let done = || finish(0).then(&finish(0)).then(&reap(1));
    let run = |w: Writer| with_queues().then(&w).then(&poll()).then(&done());
    let list: Vec<u64> = (30..45).map(|page| page * 4096).collect();
    let prps = memory(25, &list).then(&read(1, 0, 100));
    let data_block = |page: u64, len: u64| [page * 4096, len];
    let segment = [data_block(30, 4096), data_block(40, 512), data_block(35, 3584)].concat();
    let sgl = memory(24, &segment).then(&with_flags(read(1, 0, 16), 0x40, Some((0x30, 48))));
    let chain = [24 * 4096, 0x20 << 56 | 16];
    let looped = memory(24, &chain).then(&with_flags(read(1, 0, 16), 0x40, Some((0x20, 16))));
    let block = with_flags(write(1, 0, 2), 0x40, Some((0, 1024)));
    let ranges = [[1 << 32, 0], [2 << 32, 8], [1 << 32, 100]].concat();
    let dsm = memory(28, &ranges).then(&command(1, 9, 1, 1, [28, 0], [2, 4, 0]));
    let compare = with_flags(command(1, 5, 1, 1, [24, 25], [8, 0, 3]), 1, None);
    let fused = compare.clone().then(&with_flags(write(2, 8, 4), 2, None));
    let others = command(1, 0, 1, 1, [0, 0], [0; 3]).then(&command(1, 8, 2, 2, [0, 0], [0, 0, 7]));
    let bells = (1..8).fold(w(), |w, i| w.step(s::DOORBELL).u8(i).u32(u32::from(i) * 3));
    let shadow = admin(0x7c, 5, 0, [0; 3]).then(&page(w().step(s::MEMORY), 20).u8(16)).u64(0).u64(1);
    let aborts = |how| {
        let abort = |cid| admin(8, cid, 0, [7 << 16 | 1, 0, 0]);
        read(7, 0, 1).then(&poll()).step(s::BACKEND).u8(0).u8(how).then(&abort(3)).then(&abort(4)).then(&finish(0))
    };
    let stuck = dsm.clone().then(&poll()).then(&admin(0, 8, 0, [1, 0, 0])).step(s::BACKEND).u8(0).u8(2);
    let many = (0..15).fold(w(), |w, i| w.then(&read(i, i.into(), 1)));
    let delete = many.clone().then(&poll()).then(&admin(0, 8, 0, [1, 0, 0])).then(&finish(0)).then(&poll());
    let later = w().step(s::BACKEND).u8(0).u8(6).then(&many).then(&poll()).then(&poll()).then(&poll());
    let at_once = w().step(s::BACKEND).u8(0).u8(1).then(&many).then(&reap(1)).then(&many);
    let interrupts = w().step(s::EVENTFDS).u8(0).u8(5).then(&admin(9, 6, 0, [8, 0x0a03, 0])).then(&many);
    vec![
        ("read-write", run(write(1, 0, 16).then(&read(2, 0, 16)))),
        ("prp-list", run(prps)),
        ("sgl", run(sgl)),
        ("sgl-loop", run(looped)),
        ("sgl-block", run(block)),
        ("deallocate", run(dsm)),
        ("fused", run(fused)),
        ("half-fused", run(compare).then(&admin(0, 8, 0, [1, 0, 0])).then(&poll())),
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
