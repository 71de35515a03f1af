//! A poller stays on the thread that registered it.

use spdk::poller::Poller;

fn leave(poller: Poller) {
    std::thread::spawn(move || drop(poller));
}

fn main() {}
