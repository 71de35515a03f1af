//! Threads for what takes long.

use std::io;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;

/// A thread that does one thing after another, in the order in which they were asked for. It ends, having done all,
/// when this is dropped, which waits for it.
#[derive(Debug)]
pub(super) struct Worker<T> {
    /// Taken only at the end.
    orders: Option<Sender<T>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Worker<T> {
    /// Starts the thread, which calls `work` with each order.
    ///
    /// # Errors
    /// What the operating system says.
    pub(super) fn start(name: &str, work: impl FnMut(T) + Send + 'static) -> io::Result<Self> {
        let (orders, receiver) = mpsc::channel();
        let thread = spdk::thread::spawn_unpinned(name, move || receiver.into_iter().for_each(work))?;
        Ok(Self { orders: Some(orders), thread: Some(thread) })
    }

    /// Asks for one thing more. It is dropped here if the thread has panicked.
    pub(super) fn send(&self, order: T) {
        if let Some(orders) = &self.orders {
            let _ = orders.send(order);
        }
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        self.orders.take();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("a thread of the controllers' has panicked");
        }
    }
}
