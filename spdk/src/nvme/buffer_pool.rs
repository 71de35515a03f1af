//! Memory for the answers to admin commands, taken once: SPDK's memory may have to come from the system, and whoever
//! asks may share its reactor with I/O.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use crate::Errno;
use crate::dma::DmaBuf;

/// Bytes of a buffer: the longest answer that is asked for again and again.
const LEN: usize = 8192;
/// How many are kept: as many as there are commands at a time.
const COUNT: usize = 8;

/// The buffers that no command uses just now.
type Kept<B> = Rc<RefCell<Vec<B>>>;

/// Buffers for commands.
#[derive(Debug)]
pub(super) struct BufferPool<B: Deref<Target = [u8]> = DmaBuf>(Kept<B>);

/// A buffer that a command uses. It is kept for another one when this is dropped.
#[derive(Debug)]
pub(super) struct PooledBuffer<B: Deref<Target = [u8]> = DmaBuf> {
    buffer: Option<B>,
    len: usize,
    kept: Kept<B>,
}

impl BufferPool {
    /// Takes the memory, as far as there is some.
    pub(super) fn new() -> Self {
        Self::filled(|| DmaBuf::zeroed(LEN, 4096))
    }

    /// Returns a buffer of `len` bytes, which are zero.
    ///
    /// # Errors
    /// `NOMEM` when all are in use and SPDK's memory is used up.
    pub(super) fn take(&self, len: usize) -> Result<PooledBuffer, Errno> {
        self.take_or(len, |len| DmaBuf::zeroed(len, 4096))
    }
}

impl<B: DerefMut<Target = [u8]>> BufferPool<B> {
    fn filled(mut new: impl FnMut() -> Result<B, Errno>) -> Self {
        Self(Rc::new(RefCell::new((0..COUNT).map_while(|_| new().ok()).collect())))
    }

    fn take_or(&self, len: usize, new: impl FnOnce(usize) -> Result<B, Errno>) -> Result<PooledBuffer<B>, Errno> {
        let kept = if len <= LEN { self.0.borrow_mut().pop() } else { None };
        let buffer = kept.map_or_else(|| new(len.max(LEN)), Ok)?;
        let mut buffer = PooledBuffer { buffer: Some(buffer), len, kept: Rc::clone(&self.0) };
        // What the command before it has left is nothing that this one has brought.
        buffer.bytes_mut().fill(0);
        Ok(buffer)
    }
}

impl<B: DerefMut<Target = [u8]>> PooledBuffer<B> {
    /// Returns the bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        self.buffer.as_deref().and_then(|buffer| buffer.get(..self.len)).unwrap_or_default()
    }

    /// Returns the same, to be written.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.buffer.as_deref_mut().and_then(|buffer| buffer.get_mut(..self.len)).unwrap_or_default()
    }
}

impl<B: Deref<Target = [u8]>> Drop for PooledBuffer<B> {
    fn drop(&mut self) {
        let mut kept = self.kept.borrow_mut();
        if let Some(buffer) = self.buffer.take().filter(|buffer| kept.len() < COUNT && buffer.len() == LEN) {
            kept.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages() -> BufferPool<Vec<u8>> {
        BufferPool::filled(|| Ok(vec![0; LEN]))
    }

    #[test]
    fn no_memory_is_taken_for_as_many_commands_as_there_are_at_a_time() {
        let pages = pages();
        let nothing = |_| Err(Errno::NOMEM);
        for round in 0..3 {
            let taken: Vec<_> = (0..COUNT).map(|_| pages.take_or(4096, nothing).expect("it was kept")).collect();
            assert_eq!(pages.take_or(4096, nothing).err(), Some(Errno::NOMEM), "round {round}");
            drop(taken);
        }
    }

    #[test]
    fn what_an_answer_has_left_is_not_in_the_next_one() {
        let pages = pages();
        let taken = || pages.take_or(LEN, |_| Err(Errno::NOMEM)).expect("it was kept");
        taken().bytes_mut().fill(0xee);
        assert!(taken().bytes().len() == LEN && taken().bytes().iter().all(|&byte| byte == 0));
    }

    #[test]
    fn more_and_longer_buffers_are_taken_for_the_time_being_only() {
        let pages = pages();
        let long = pages.take_or(LEN + 1, |len| Ok(vec![1; len])).expect("it is made");
        assert_eq!(long.bytes(), [0; LEN + 1]);
        drop(long);
        let taken: Vec<_> =
            (0..=COUNT).map(|_| pages.take_or(1, |len| Ok(vec![1; len])).expect("it is made")).collect();
        assert!(taken.iter().all(|buffer| buffer.bytes() == [0]));
        drop(taken);
        assert!(pages.0.borrow().len() == COUNT && pages.0.borrow().iter().all(|buffer| buffer.len() == LEN));
    }
}
