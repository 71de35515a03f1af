//! The pieces that an I/O's way through the controller is made of, each by itself: `cargo bench --package nvme-device`.
//! For finding out which piece a change made dearer; what counts is the whole (scripts/instructions.sh,
//! scripts/bench.sh).

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use guest_memory::dptr::walk;
use guest_memory::{Access, CompletionRing, Extent, GuestMemory, IovSink, MemView, Region, SubmissionRing};
use nvme_device::model::io::{NsGeometry, decode};
use nvme_spec::{CommandFlags, Cqe, IoOpcode, Sqe};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use zerocopy::IntoBytes;

const PAGE: u64 = 4096;
/// Each region has room for queues, lists and 1 MiB of data.
const REGION: u64 = 2 << 20;
/// Regions do not touch one another.
const STRIDE: u64 = 2 * REGION;
const CQ: u64 = 0;
const SQ: u64 = PAGE;
const LIST: u64 = 2 * PAGE;
const DATA: u64 = 1 << 20;
const ENTRIES: u16 = 64;
/// I/O vectors of the longest command (MDTS of 128 KiB, not aligned to pages).
const IOVS: usize = 33;
const EMPTY: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

/// Returns a guest's memory of so many regions.
fn guest(regions: u64) -> MemView {
    let mut memory = GuestMemory::new();
    for region in 0..regions {
        let file = memfd_create("pieces", MemfdFlags::CLOEXEC).expect("a memory file is made");
        ftruncate(&file, REGION).expect("it gets its length");
        let mapped = Extent::new(0, region * STRIDE, REGION, Access::ReadWrite)
            .and_then(|of| Region::map(file, of, |_| {}))
            .expect("it is mapped");
        memory = memory.with(Arc::new(mapped)).expect("it has its place");
    }
    MemView::new(Arc::new(memory))
}

/// A read of `len` bytes into pages that do not follow one another, by a PRP list where it needs one.
fn by_prps(view: &MemView, len: u64) -> Sqe {
    let pages: Vec<u64> = (0..len.div_ceil(PAGE)).map(|page| DATA + 2 * page * PAGE).collect();
    view.write(LIST, pages[1..].as_bytes()).expect("the list is in guest memory");
    let prp2 = match pages[1..] {
        [] => 0,
        [second] => second,
        _ => LIST,
    };
    Sqe { prp1: DATA, prp2, ..read(len) }
}

/// Returns the same by an SGL: a segment with a data block descriptor for each page.
fn by_sgl(view: &MemView, len: u64) -> Sqe {
    let mut list = Vec::new();
    for page in 0..len.div_ceil(PAGE) {
        list.extend([DATA + 2 * page * PAGE, PAGE]);
    }
    view.write(LIST, list.as_bytes()).expect("the list is in guest memory");
    // The last segment's descriptor (type 3h), and PSDT = 1 in the flags.
    let descriptor = size_of_val(&list[..]) as u64 | 0x30 << 56;
    Sqe { flags: CommandFlags::SGL, prp1: LIST, prp2: descriptor, ..read(len) }
}

fn read(len: u64) -> Sqe {
    let blocks = u32::try_from(len / PAGE).expect("it is short") - 1;
    Sqe { opcode: IoOpcode::READ.0, nsid: 1, cdw10: 77, cdw12: blocks, ..Sqe::default() }
}

fn decoding(c: &mut Criterion) {
    let ns = NsGeometry::new(1 << 20, 12).expect("the geometry is valid");
    let sqe = read(PAGE);
    c.bench_function("decode a read", |b| b.iter(|| decode(black_box(&sqe), &ns, 128 * 1024)));
}

fn walking(c: &mut Criterion) {
    let view = guest(1);
    let mut group = c.benchmark_group("data pointer to I/O vectors");
    for len in [PAGE, 2 * PAGE, 32 * PAGE] {
        // One after the other: they have their list in the same place.
        for (name, make) in [("PRP", by_prps as fn(&MemView, u64) -> Sqe), ("SGL", by_sgl)] {
            let sqe = make(&view, len);
            let length = u32::try_from(len).expect("it is short");
            group.bench_function(BenchmarkId::new(name, format!("{} KiB", len / 1024)), |b| {
                b.iter(|| {
                    let mut iovs = [EMPTY; IOVS];
                    let mut sink = IovSink::new(&view, &mut iovs, true);
                    walk(&view, black_box(&sqe), length, &mut sink).expect("the data pointer is valid");
                    sink.count()
                });
            });
        }
    }
    group.finish();
}

fn looking_up(c: &mut Criterion) {
    let mut group = c.benchmark_group("guest address to host address");
    for regions in [1, 300] {
        let view = guest(regions);
        let mut next = 0;
        group.bench_function(BenchmarkId::from_parameter(format!("{regions} regions, another each time")), |b| {
            b.iter(|| {
                next = (next + 7) % regions;
                view.translate(black_box(next * STRIDE + DATA), PAGE, true)
            });
        });
    }
    group.finish();
}

fn queues(c: &mut Criterion) {
    let view = guest(1);
    let completions = CompletionRing::resolve(&view, CQ, ENTRIES).expect("the queue is in guest memory");
    let mut index = 0;
    c.bench_function("post a completion entry", |b| {
        b.iter(|| {
            index = (index + 1) % ENTRIES;
            completions.post(index, black_box(Cqe::default()))
        });
    });
    let submissions = SubmissionRing::resolve(&view, SQ, ENTRIES).expect("the queue is in guest memory");
    c.bench_function("copy a submission entry", |b| {
        b.iter(|| {
            index = (index + 1) % ENTRIES;
            submissions.read(black_box(index))
        });
    });
}

criterion_group!(pieces, decoding, walking, looking_up, queues);
criterion_main!(pieces);
