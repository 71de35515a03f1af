//! A controller stays on its home thread; a `CtrlrRef` is for the others.

use spdk::nvme::Ctrlr;

fn leave(ctrlr: Ctrlr) {
    std::thread::spawn(move || drop(ctrlr.poll_admin()));
}

fn main() {}
