//! What was written is what is read, whatever the pieces look like.

use std::hash::{DefaultHasher, Hasher};

use serial_test::serial;
use spdk::bdev_client::Op;

use crate::common::disk::{Disk, Layout};
use crate::common::rng::Rng;
use crate::common::target::{NS_512, NS_4096, SIZE};
use crate::common::{POOL, rig};

/// The test, on blocks of 512 and of 4096 bytes.
fn on_both(test: impl Fn(&Disk)) {
    for nsid in [NS_512, NS_4096] {
        let bdev = rig().bdev(POOL, nsid);
        test(&Disk::open(&bdev.name));
    }
}

/// Writes through one layout and reads back through the other, at `offset`.
fn round_trip(disk: &Disk, offset: u64, written: &Layout, read: &Layout, data: &[u8]) {
    assert_eq!(disk.write(offset, written, data), Ok(()), "write at {offset} of {written:?}");
    let found = disk.read(offset, read).unwrap_or_else(|status| panic!("read at {offset}: {status:?}"));
    assert!(found == data, "at {offset}, written as {written:?}, read as {read:?}");
}

#[test]
#[serial]
fn the_bdev_has_the_geometry_of_the_namespace() {
    for (nsid, block_size) in [(NS_512, 512), (NS_4096, 4096)] {
        let bdev = rig().bdev(POOL, nsid);
        let disk = Disk::open(&bdev.name);
        assert_eq!((disk.block_size, disk.num_blocks * disk.block_size as u64), (block_size, SIZE));
    }
}

#[test]
#[serial]
fn a_single_block_is_read_as_written() {
    on_both(|disk| {
        let data = Rng::new(1).bytes(disk.block_size);
        let layout = Layout::whole(disk.block_size);
        for offset in [0, 1, 17, disk.num_blocks / 2] {
            round_trip(disk, offset, &layout, &layout, &data);
        }
    });
}

#[test]
#[serial]
fn blocks_beside_a_write_stay_as_they_are() {
    on_both(|disk| {
        let size = disk.block_size;
        let old = Rng::new(2).bytes(3 * size);
        assert_eq!(disk.write(100, &Layout::whole(3 * size), &old), Ok(()));
        let new = Rng::new(3).bytes(size);
        assert_eq!(disk.write(101, &Layout::whole(size), &new), Ok(()));
        let found = disk.read(100, &Layout::whole(3 * size)).expect("a good read");
        assert!(found == [&old[..size], &new, &old[2 * size..]].concat());
    });
}

#[test]
#[serial]
fn pieces_of_odd_lengths_at_unaligned_addresses_keep_the_data() {
    on_both(|disk| {
        let size = disk.block_size;
        let data = Rng::new(4).bytes(2 * size);
        let odd = [1, size - 1, 3, size - 3];
        let other = [size + 7, 1, 1, 1, size - 10];
        for start in [0, 1, 2, 3, 5, 511, 4095] {
            let (odd, other) = (Layout::of(&odd, start), Layout::of(&other, start + 1));
            round_trip(disk, 10, &odd, &other, &data);
            round_trip(disk, 10, &other, &Layout::whole(2 * size), &data);
        }
    });
}

#[test]
#[serial]
fn more_pieces_than_a_command_carries_keep_the_data() {
    on_both(|disk| {
        let size = disk.block_size;
        for count in [15, 16, 17, 31, 32, 33, 64] {
            // As many blocks as pieces: a command of sixteen pieces ends with a block.
            let data = Rng::new(count as u64).bytes(count * size);
            let aligned = Layout::pieces(count, count * size, 0);
            let unaligned = Layout::pieces(count, count * size, 3);
            round_trip(disk, 7, &aligned, &unaligned, &data);
            round_trip(disk, 7, &unaligned, &Layout::whole(count * size), &data);
        }
    });
}

#[test]
#[serial]
fn many_pieces_that_do_not_end_with_blocks_keep_the_data() {
    on_both(|disk| {
        let size = disk.block_size;
        let mut rng = Rng::new(5);
        for count in [17, 32, 64] {
            // Pieces of about a block each, of which no sixteen need end with one.
            let mut lengths = vec![size; count];
            for index in (1..count).step_by(2) {
                let moved = 1 + rng.size(size - 1);
                lengths[index] += moved;
                lengths[index - 1] -= moved;
            }
            let data = rng.bytes(count * size);
            round_trip(disk, 31, &Layout::of(&lengths, 1), &Layout::whole(count * size), &data);
            round_trip(disk, 31, &Layout::whole(count * size), &Layout::of(&lengths, 2), &data);
        }
    });
}

#[test]
#[serial]
fn a_block_in_more_pieces_than_a_command_carries_fails_and_leaves_the_bdev_usable() {
    on_both(|disk| {
        let size = disk.block_size;
        let data = Rng::new(6).bytes(size);
        let layout = Layout::pieces(64, size, 0);
        assert!(disk.write(0, &layout, &data).is_err());
        round_trip(disk, 0, &Layout::whole(size), &Layout::whole(size), &data);
    });
}

#[test]
#[serial]
fn the_last_block_is_read_as_written() {
    on_both(|disk| {
        let data = Rng::new(7).bytes(disk.block_size);
        round_trip(disk, disk.num_blocks - 1, &Layout::whole(data.len()), &Layout::of(&[1, data.len() - 1], 1), &data);
    });
}

#[test]
#[serial]
fn io_past_the_end_is_refused_and_changes_nothing() {
    on_both(|disk| {
        let size = disk.block_size;
        let data = Rng::new(8).bytes(2 * size);
        let last = disk.num_blocks - 1;
        let before = disk.read(last, &Layout::whole(size)).expect("a good read");
        for (offset, blocks) in [(last, 2), (last + 1, 1), (u64::MAX, 1), (u64::MAX - 1, 2)] {
            for op in [Op::Read, Op::Write, Op::Compare, Op::Unmap, Op::WriteZeroes] {
                let len = usize::try_from(blocks).expect("one or two") * size;
                let outcome = disk.run(op, offset, blocks, &Layout::whole(len), &data[..len]);
                assert_eq!(outcome.map(|_| ()), Err(spdk::Errno::INVAL), "{op:?} of {blocks} blocks at {offset}");
            }
        }
        assert!(disk.read(last, &Layout::whole(size)) == Ok(before));
    });
}

#[test]
#[serial]
fn pieces_of_another_length_than_the_blocks_are_refused() {
    on_both(|disk| {
        let size = disk.block_size;
        for len in [size - 1, size + 1, 2 * size, 1] {
            let outcome = disk.run(Op::Write, 0, 1, &Layout::whole(len), &vec![1; len]);
            assert_eq!(outcome.map(|_| ()), Err(spdk::Errno::INVAL), "{len} bytes for a block");
        }
        let halves = Layout::of(&[size + 1, size - 1], 0);
        let outcome = disk.run(Op::CompareAndWrite, 0, 1, &halves, &vec![1; 2 * size]);
        assert_eq!(outcome.map(|_| ()), Err(spdk::Errno::INVAL));
    });
}

#[test]
#[serial]
fn an_io_of_a_mebibyte_is_read_as_written() {
    const MIB: usize = 1 << 20;
    on_both(|disk| {
        let data = Rng::new(9).bytes(MIB);
        let uneven = Layout::of(&[5, 100_000, 131_072, 3, 400_001, MIB - 631_081], 7);
        for offset in [0, 3, disk.num_blocks - (MIB / disk.block_size) as u64] {
            round_trip(disk, offset, &Layout::whole(MIB), &uneven, &data);
            round_trip(disk, offset, &uneven, &Layout::pieces(40, MIB, 1), &data);
        }
    });
}

#[test]
#[serial]
fn the_whole_disk_has_the_checksum_of_what_was_written() {
    const PART: usize = 1 << 19;
    on_both(|disk| {
        let per_part = (PART / disk.block_size) as u64;
        let (mut written, mut found) = (DefaultHasher::new(), DefaultHasher::new());
        let mut rng = Rng::new(10);
        for offset in (0..disk.num_blocks).step_by(PART / disk.block_size) {
            let data = rng.bytes(PART);
            written.write(&data);
            assert_eq!(disk.write(offset, &Layout::pieces(9, PART, 1), &data), Ok(()));
        }
        // In other steps than it was written in.
        let step = per_part / 4;
        let layout = Layout::pieces(3, PART / 4, 5);
        for offset in (0..disk.num_blocks).step_by(usize::try_from(step).expect("a size")) {
            found.write(&disk.read(offset, &layout).expect("a good read"));
        }
        assert_eq!(found.finish(), written.finish());
    });
}
