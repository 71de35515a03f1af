//! What an `AppCell` holds is lent for the time of a call only.

use std::cell::RefCell;

use spdk::thread::AppCell;

static CELL: AppCell<u32> = AppCell::new(|| 0);

fn keep() -> &'static RefCell<u32> {
    CELL.with(|cell| cell)
}

fn main() {}
