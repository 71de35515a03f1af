//! An I/O is completed on the thread that it was submitted on; a `Carrier` brings it back there.

use spdk::bdev::{BdevIo, Device, IoStatus};

fn leave<D: Device>(io: BdevIo<D>) {
    std::thread::spawn(move || io.complete(IoStatus::Success));
}

fn main() {}
