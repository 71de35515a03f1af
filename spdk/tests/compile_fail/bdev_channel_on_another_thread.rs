//! A channel to a bdev stays on its thread.

use spdk::bdev_client::BdevChannel;

fn leave(channel: BdevChannel) {
    std::thread::spawn(move || drop(channel));
}

fn main() {}
