//! A channel stays on its thread, whatever the device puts into it.

use spdk::io_device::IoChannel;

fn leave(channel: IoChannel<u32>) {
    std::thread::spawn(move || drop(channel));
}

fn main() {}
