//! What is called for every channel is called on several threads: it is `Send` and `Sync`.

use std::cell::Cell;
use std::rc::Rc;

use spdk::io_device::{ChannelFactory, IoDevice};

fn cell<F: ChannelFactory>(device: &IoDevice<F>) {
    let count = Cell::new(0);
    let each = move |_: &F::Channel, _| count.set(count.get() + 1);
    let _ = device.for_each_channel(each, |_| ());
}

fn rc<F: ChannelFactory>(device: &IoDevice<F>) {
    let shared = Rc::new(0);
    let _ = device.for_each_channel(move |_, _| drop(Rc::clone(&shared)), |_| ());
}

fn main() {}
