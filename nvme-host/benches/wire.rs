//! What the wire costs per I/O of 4 KiB, without sockets and without copies: `cargo bench --package nvme-host`. The
//! other side's part (identifiers that are put into PDUs made before) is measured by itself, too.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nvme_host::tcp::{Chunk, Digests, Event, Options, Wire};
use nvme_spec::nvm::BlockDw12;
use nvme_spec::tcp::{C2hData, CapsuleCmd, CapsuleResp, IcResp, PduDigests, PduFlags, PduHeader, PduType, R2t};
use nvme_spec::{Cqe, Sqe};
use zerocopy::{FromBytes, IntoBytes};

const BLOCK: u32 = 4096;
/// Bytes of a capsule without data and without digests.
const CAPSULE: usize = size_of::<CapsuleCmd>();
const NONE: Digests = Digests { header: false, data: false };

fn common(kind: PduType, hlen: u8, plen: u32) -> PduHeader {
    PduHeader { kind, hlen, plen, ..PduHeader::default() }
}

fn ready(depth: u16) -> Wire {
    let options = Options { depth, digests: NONE, max_r2t: 1, in_capsule_data: 0 };
    let mut wire = Wire::new(options).expect("the options are valid");
    wire.sent(128);
    let response = IcResp {
        header: common(PduType::IC_RESP, 128, 128),
        pfv: 0,
        cpda: 0,
        dgst: PduDigests::new(),
        maxh2cdata: 128 << 10,
        reserved_16: [0; 112],
    };
    let event = wire.next(&mut response.as_bytes()).expect("it is right");
    assert!(matches!(event, Some(Event::Ready(_))));
    wire
}

/// Returns the PDU with all data of a read, which tells success.
fn data_pdu() -> Vec<u8> {
    let mut header = common(PduType::C2H_DATA, 24, 24 + BLOCK);
    header.pdo = 24;
    header.flags = PduFlags::new().with_last_pdu(true).with_success(true);
    let mut pdu = C2hData { header, datal: BLOCK, ..C2hData::default() }.as_bytes().to_vec();
    pdu.resize(24 + BLOCK as usize, 0xda);
    pdu
}

fn r2t_pdu() -> Vec<u8> {
    R2t { header: common(PduType::R2T, 24, 24), r2tl: BLOCK, ..R2t::default() }.as_bytes().to_vec()
}

fn response_pdu() -> Vec<u8> {
    CapsuleResp { header: common(PduType::CAPSULE_RESP, 24, 24), cqe: Cqe::default() }.as_bytes().to_vec()
}

/// Sends all that there is. Returns its bytes, and puts the identifiers of the capsules at its beginning into `cids`.
fn send(wire: &mut Wire, cids: &mut [u16]) -> usize {
    wire.build_transfers(|_, _, _| 0);
    let (mut bytes, mut filled) = (0, 0);
    for chunk in wire.output() {
        match black_box(chunk) {
            Chunk::Bytes(part) => {
                bytes += part.len();
                for (cid, capsule) in cids.iter_mut().skip(filled).zip(part.chunks_exact(CAPSULE)) {
                    *cid = u16::from_le_bytes([capsule[10], capsule[11]]);
                    filled += 1;
                }
            }
            Chunk::Data { len, .. } => bytes += len as usize,
        }
    }
    wire.sent(bytes);
    bytes
}

/// Puts identifiers into PDUs of one size.
fn patch(stream: &mut [u8], size: usize, at: usize, cids: &[u16]) {
    for (pdu, cid) in stream.chunks_exact_mut(size).zip(cids) {
        pdu[at..at + 2].copy_from_slice(&cid.to_le_bytes());
    }
}

/// Takes all of the input, and returns how many commands have ended.
fn take(wire: &mut Wire, mut input: &[u8]) -> usize {
    let mut ended = 0;
    while let Some(event) = wire.next(&mut input).expect("the controller is right") {
        if matches!(black_box(event), Event::Completed { .. }) {
            ended += 1;
        }
    }
    ended
}

fn reads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reads of 4 KiB");
    for depth in [1_u16, 32, 128] {
        let count = usize::from(depth);
        let (mut wire, mut cids) = (ready(depth), vec![0; count]);
        let mut stream = data_pdu().repeat(count);
        group.throughput(Throughput::Elements(depth.into()));
        group.bench_function(BenchmarkId::from_parameter(depth), |bencher| {
            bencher.iter(|| {
                for slba in 0..u64::from(depth) {
                    let sqe = Sqe::read(1, slba, BlockDw12::of(7));
                    wire.submit_read(sqe, BLOCK).expect("there is room");
                }
                send(&mut wire, &mut cids);
                patch(&mut stream, 24 + BLOCK as usize, 8, &cids);
                assert_eq!(take(&mut wire, &stream), count);
            });
        });
        group.bench_function(BenchmarkId::new("the other side", depth), |bencher| {
            bencher.iter(|| patch(black_box(&mut stream), 24 + BLOCK as usize, 8, black_box(&cids)));
        });
    }
}

fn writes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("writes of 4 KiB by R2T");
    for depth in [1_u16, 32, 128] {
        let count = usize::from(depth);
        let (mut wire, mut cids) = (ready(depth), vec![0; count]);
        let (mut requests, mut responses) = (r2t_pdu().repeat(count), response_pdu().repeat(count));
        group.throughput(Throughput::Elements(depth.into()));
        group.bench_function(BenchmarkId::from_parameter(depth), |bencher| {
            bencher.iter(|| {
                for slba in 0..u64::from(depth) {
                    let sqe = Sqe::write(1, slba, BlockDw12::of(7));
                    wire.submit_write(sqe, BLOCK, || 0).expect("there is room");
                }
                send(&mut wire, &mut cids);
                patch(&mut requests, 24, 8, &cids);
                assert_eq!(take(&mut wire, &requests), 0);
                assert_eq!(send(&mut wire, &mut []), count * (24 + BLOCK as usize));
                patch(&mut responses, 24, 20, &cids);
                assert_eq!(take(&mut wire, &responses), count);
            });
        });
    }
}

/// The structures lie where the functions above look for identifiers.
fn check() {
    let capsule = CapsuleCmd { header: PduHeader::default(), sqe: Sqe { cid: 0x1234, ..Sqe::default() } };
    assert_eq!(capsule.as_bytes()[10..12], [0x34, 0x12]);
    let (response, _) = CapsuleResp::read_from_prefix(&response_pdu()).expect("it is whole");
    assert_eq!((response.header.kind, std::mem::offset_of!(Cqe, cid)), (PduType::CAPSULE_RESP, 12));
}

fn all(criterion: &mut Criterion) {
    check();
    reads(criterion);
    writes(criterion);
}

criterion_group!(benches, all);
criterion_main!(benches);
