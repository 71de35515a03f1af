//! What is called on another thread is `Send`.

use std::rc::Rc;

use spdk::thread::OwnedThread;

fn send(thread: &OwnedThread) {
    let shared = Rc::new(1);
    let kept = Rc::clone(&shared);
    let _ = thread.send(move || drop(shared));
    drop(kept);
}

fn main() {}
