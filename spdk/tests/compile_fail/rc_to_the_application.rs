//! What is called on the application's thread is `Send`.

use std::rc::Rc;

fn main() {
    let shared = Rc::new(1);
    let kept = Rc::clone(&shared);
    let _ = spdk::thread::send_to_app(move || drop(shared));
    drop(kept);
}
