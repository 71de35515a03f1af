//! Random operations leave on the bdev what they leave in memory.

use nvme_spec::Status;
use serial_test::serial;
use spdk::bdev_client::Op;

use crate::common::disk::{Disk, Layout};
use crate::common::rng::Rng;
use crate::common::target::{NS_512, NS_4096};
use crate::common::{POOL, rig};

const ROUNDS: usize = 1_500;
/// The blocks that are used; small, so that operations meet.
const BLOCKS: usize = 48;
const MOST_BLOCKS: usize = 8;

struct Model<'a> {
    disk: &'a Disk,
    /// The first of the blocks that are used.
    first: u64,
    bytes: Vec<u8>,
    rng: Rng,
}

impl<'a> Model<'a> {
    fn new(disk: &'a Disk, first: u64, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let bytes = rng.bytes(BLOCKS * disk.block_size);
        assert_eq!(disk.write(first, &Layout::whole(bytes.len()), &bytes), Ok(()));
        Self { disk, first, bytes, rng }
    }

    /// Up to fourteen pieces at any address.
    fn layout(&mut self, len: usize) -> Layout {
        let mut cuts: Vec<usize> = (0..self.rng.size(14)).map(|_| 1 + self.rng.size(len - 1)).collect();
        cuts.extend([0, len]);
        cuts.sort_unstable();
        cuts.dedup();
        let lengths: Vec<usize> = cuts.windows(2).map(|pair| pair[1] - pair[0]).collect();
        Layout::of(&lengths, self.rng.size(4096))
    }

    fn step(&mut self) {
        let block = self.rng.size(BLOCKS);
        let blocks = 1 + self.rng.size(MOST_BLOCKS.min(BLOCKS - block));
        let size = self.disk.block_size;
        let (range, offset) = (block * size..(block + blocks) * size, self.first + block as u64);
        let len = range.len();
        let layout = self.layout(len);
        match self.rng.below(8) {
            0 | 1 => {
                let data = self.rng.bytes(len);
                assert_eq!(self.disk.write(offset, &layout, &data), Ok(()));
                self.bytes[range].copy_from_slice(&data);
            }
            2 | 3 => assert!(self.disk.read(offset, &layout).as_deref() == Ok(&self.bytes[range]), "read at {offset}"),
            4 => {
                let op = if self.rng.below(2) == 0 { Op::Unmap } else { Op::WriteZeroes };
                assert_eq!(self.disk.bare(op, offset, blocks as u64), Ok(()), "{op:?} at {offset}");
                self.bytes[range].fill(0);
            }
            5 => self.compare(offset, &layout, range),
            6 => self.compare_and_write(block),
            _ => assert_eq!(self.disk.bare(Op::Flush, offset, blocks as u64), Ok(())),
        }
    }

    fn compare(&mut self, offset: u64, layout: &Layout, range: std::ops::Range<usize>) {
        let mut data = self.bytes[range].to_vec();
        let equal = self.rng.below(2) == 0;
        if !equal {
            let at = self.rng.size(data.len());
            data[at] ^= 1 << self.rng.below(8);
        }
        let blocks = (data.len() / self.disk.block_size) as u64;
        let outcome = self.disk.run(Op::Compare, offset, blocks, layout, &data).expect("the I/O is taken");
        // A target whose bdev cannot compare does so itself, and tells of a difference as of an internal error.
        let expected = if equal { Ok(()) } else { Err(Status::INTERNAL_ERROR) };
        assert_eq!(outcome.result, expected, "compare at {offset}");
    }

    /// On one block, which every target does as one.
    fn compare_and_write(&mut self, block: usize) {
        let size = self.disk.block_size;
        let here = block * size..(block + 1) * size;
        let mut expected = self.bytes[here.clone()].to_vec();
        let equal = self.rng.below(2) == 0;
        if !equal {
            let at = self.rng.size(size);
            expected[at] ^= 1 << self.rng.below(8);
        }
        let new = self.rng.bytes(size);
        let (first, second) = (1 + self.rng.size(size - 1), 1 + self.rng.size(size - 1));
        let layout = Layout::of(&[first, size - first, second, size - second], self.rng.size(64));
        let data = [expected, new.clone()].concat();
        let offset = self.first + block as u64;
        let outcome = self.disk.run(Op::CompareAndWrite, offset, 1, &layout, &data).expect("the I/O is taken");
        assert_eq!(outcome.result, if equal { Ok(()) } else { Err(Status::COMPARE_FAILURE) }, "at {offset}");
        if equal {
            self.bytes[here].copy_from_slice(&new);
        }
    }

    fn check(&self) {
        let found = self.disk.read(self.first, &Layout::whole(self.bytes.len())).expect("a good read");
        assert!(found == self.bytes, "the bdev holds what the model holds");
    }
}

fn random_operations(nsid: u32, seed: u64) {
    let bdev = rig().bdev(POOL, nsid);
    let disk = Disk::open(&bdev.name);
    let mut model = Model::new(&disk, 1_000, seed);
    for round in 0..ROUNDS {
        model.step();
        if round % 100 == 0 {
            model.check();
        }
    }
    model.check();
}

#[test]
#[serial]
fn random_operations_on_blocks_of_512_bytes_agree_with_a_model() {
    random_operations(NS_512, 1);
}

#[test]
#[serial]
fn random_operations_on_blocks_of_4096_bytes_agree_with_a_model() {
    random_operations(NS_4096, 2);
}

#[test]
#[serial]
fn an_unmapped_block_reads_as_zeroes_and_its_neighbours_as_before() {
    let bdev = rig().bdev(POOL, NS_512);
    let disk = Disk::open(&bdev.name);
    let old = Rng::new(3).bytes(3 * 512);
    assert_eq!(disk.write(50, &Layout::whole(old.len()), &old), Ok(()));
    assert_eq!(disk.bare(Op::Unmap, 51, 1), Ok(()));
    let found = disk.read(50, &Layout::whole(old.len())).expect("a good read");
    assert!(found == [&old[..512], &[0; 512], &old[1024..]].concat());
}

#[test]
#[serial]
fn an_unequal_compare_and_write_writes_nothing() {
    let bdev = rig().bdev(POOL, NS_4096);
    let disk = Disk::open(&bdev.name);
    let old = Rng::new(4).bytes(4096);
    assert_eq!(disk.write(9, &Layout::whole(4096), &old), Ok(()));
    let mut data = [old.clone(), vec![7; 4096]].concat();
    data[4095] ^= 1;
    let layout = Layout::of(&[4096, 4096], 0);
    let outcome = disk.run(Op::CompareAndWrite, 9, 1, &layout, &data).expect("the I/O is taken");
    assert_eq!(outcome.result, Err(Status::COMPARE_FAILURE));
    assert!(disk.read(9, &Layout::whole(4096)) == Ok(old));
}
