//! What an `AppCell` holds is made on the application's thread: it cannot be shared with another.

use std::rc::Rc;

use spdk::thread::AppCell;

fn main() {
    let mine = Rc::new(0);
    let theirs = Rc::clone(&mine);
    let cell: &'static AppCell<Rc<i32>> = Box::leak(Box::new(AppCell::new(move || theirs)));
    let _ = spdk::thread::send_to_app(move || cell.with(|_| ()));
}
