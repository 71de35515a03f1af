//! What is called on another thread borrows nothing of the sender's.

use spdk::thread::OwnedThread;

fn send(thread: &OwnedThread, text: &str) {
    let _ = thread.send(move || println!("{text}"));
}

fn main() {}
