//! A queue pair stays on the thread of its poll group.

use spdk::nvme::QueuePair;

fn leave(qpair: QueuePair) {
    std::thread::spawn(move || qpair.disconnect());
}

fn main() {}
