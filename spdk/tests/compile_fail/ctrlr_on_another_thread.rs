//! A controller stays on the thread that owns it; a `CtrlrRef` is for the others.

use spdk::nvme::Ctrlr;

fn leave(ctrlr: Ctrlr) {
    std::thread::spawn(move || drop(ctrlr.poll_admin()));
}

fn main() {}
