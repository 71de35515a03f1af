//! An I/O that was sent on is the queue pair's until it is completed.

use spdk::bdev::{BdevIo, Device, IoStatus};
use spdk::nvme::QueuePair;

fn both<D: Device>(io: BdevIo<D>, qpair: &QueuePair) {
    let _ = io.send_flush(qpair, 1);
    io.complete(IoStatus::Success);
}

fn main() {}
