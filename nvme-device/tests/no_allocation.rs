//! No allocation per I/O: while reads and writes go from the doorbell to the backend and back to the completion queue,
//! the thread asks for no memory. What the backend does is not looked at here: this one completes at once.

mod common;

use counting_allocator::{Counting, calls};
use nvme_spec::{CommandFlags, Sqe};

use common::guest::{DATA, LISTS, PAGE, Rig, read, write};
use common::ram::Disk;

const COUNTED: u64 = 100_000;
const ENTRIES: u16 = 64;

/// Where a segment of 33 data blocks is.
const SGL: u64 = LISTS.0 + 0x8000;

#[global_allocator]
static COUNTING: Counting = Counting;

/// Reads and writes in turn, of so many blocks, their pages one behind another but for a gap.
fn commands(blocks: u32, offset: u64) -> [Sqe; 2] {
    let list = |sqe: Sqe| Sqe { prp1: sqe.prp1 + offset, prp2: if blocks > 16 { LISTS.0 } else { sqe.prp2 }, ..sqe };
    [list(read(1, 0, blocks)), list(write(2, 0, blocks))]
}

/// Returns what the thread asked for during the counted I/Os.
fn calls_during(sqes: [Sqe; 2]) -> u64 {
    let disk = Disk::instant(512, 9);
    disk.no_data.set(true);
    let rig = Rig::with(&disk);
    for i in 0..32 {
        // Every other page: no two are neighbours in host memory.
        rig.put(LISTS.0 + i * 8, &(DATA.0 + (i + 2) * 2 * PAGE).to_le_bytes());
    }
    for i in 0..33 {
        rig.put(SGL + i * 16, &(DATA.0 + i * 2048).to_le_bytes());
        rig.put(SGL + i * 16 + 8, &1024_u64.to_le_bytes());
    }
    let mut cq = rig.create_cq(1, ENTRIES, Some(1));
    let mut sq = rig.create_sq(1, ENTRIES, 1);
    let commands: Vec<_> = sqes.into_iter().cycle().take(ENTRIES.into()).collect();
    rig.submit(&mut sq, &commands);
    let (mut before, mut done) = (0, 0);
    rig.doorbells.store(2, 0);
    sq.tail = 0;
    while disk.submitted.get() < 2 * COUNTED {
        if disk.submitted.get() >= COUNTED && before == 0 {
            before = calls();
        }
        sq.tail = (sq.tail + 31) % ENTRIES;
        rig.ring(&sq);
        done += rig.queues.poll();
        rig.queues.signal();
        // The host takes what was posted.
        cq.head = (cq.head + 31) % ENTRIES;
        rig.doorbells.store(3, cq.head.into());
    }
    let calls = calls() - before;
    assert!(before > 0, "setting up did allocate");
    assert_eq!(done as u64, disk.submitted.get());
    assert!(rig.queues.take_error_events().is_empty(), "all succeed");
    let mut bytes = 0;
    rig.queues.take_totals(|_, totals| bytes += totals.bytes_read + totals.bytes_written);
    assert_eq!(bytes, done as u64 * 512 * u64::from(sqes[0].cdw12 + 1));
    calls
}

#[test]
fn reads_and_writes_of_one_piece_allocate_nothing() {
    assert_eq!(calls_during(commands(8, 0)), 0);
}

#[test]
fn reads_and_writes_of_33_pieces_allocate_nothing() {
    assert_eq!(calls_during(commands(256, 512)), 0);
}

#[test]
fn sgls_of_33_pieces_allocate_nothing() {
    let sqes =
        commands(66, 0).map(|sqe| Sqe { flags: CommandFlags::SGL, prp1: SGL, prp2: (0x30 << 56) | (33 * 16), ..sqe });
    assert_eq!(calls_during(sqes), 0);
}
