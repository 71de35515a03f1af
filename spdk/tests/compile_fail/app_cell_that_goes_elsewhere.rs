//! What an `AppCell` holds cannot be dropped on another thread.

use std::rc::Rc;

use spdk::thread::AppCell;

fn main() {
    let cell = AppCell::new(|| Rc::new(0));
    cell.with(|_| ());
    drop(cell);
}
