//! An I/O is completed once.

use spdk::bdev::{BdevIo, Device, IoStatus};

fn twice<D: Device>(io: BdevIo<D>) {
    io.complete(IoStatus::Success);
    io.complete(IoStatus::Failed);
}

fn main() {}
