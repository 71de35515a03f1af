//! Copying to and from memory that others write at the same time (see the parent module).
#![expect(unsafe_code, reason = "guest memory is reached by raw pointers")]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

const WORD: usize = size_of::<u64>();

/// Fills `into` from `from`, in 8-byte words where both ends allow it.
///
/// # Safety
/// `from` is valid for reads of `into.len()` bytes, which are only reached as atomics while this runs.
pub(super) unsafe fn load(from: NonNull<u8>, into: &mut [u8]) {
    let from = from.as_ptr();
    let (head, rest) = into.split_at_mut(from.align_offset(WORD).min(into.len()));
    let (words, tail) = rest.as_chunks_mut::<WORD>();
    let middle = head.len();
    let end = middle + words.len() * WORD;
    for (i, byte) in head.iter_mut().enumerate() {
        // SAFETY: `i` is below `into.len()`; a byte is always aligned.
        *byte = unsafe { AtomicU8::from_ptr(from.add(i)) }.load(Ordering::Relaxed);
    }
    for (i, word) in words.iter_mut().enumerate() {
        // SAFETY: the word ends at or below `end`, and `from.add(middle)` is aligned to words.
        let value = unsafe { AtomicU64::from_ptr(from.add(middle + i * WORD).cast()) }.load(Ordering::Relaxed);
        *word = value.to_ne_bytes();
    }
    for (i, byte) in tail.iter_mut().enumerate() {
        // SAFETY: `end + i` is below `into.len()`.
        *byte = unsafe { AtomicU8::from_ptr(from.add(end + i)) }.load(Ordering::Relaxed);
    }
}

/// Writes `data` to `to`, in 8-byte words where both ends allow it.
///
/// # Safety
/// `to` is valid for writes of `data.len()` bytes, which are only reached as atomics while this runs.
pub(super) unsafe fn store(to: NonNull<u8>, data: &[u8]) {
    let to = to.as_ptr();
    let (head, rest) = data.split_at(to.align_offset(WORD).min(data.len()));
    let (words, tail) = rest.as_chunks::<WORD>();
    let middle = head.len();
    let end = middle + words.len() * WORD;
    for (i, &byte) in head.iter().enumerate() {
        // SAFETY: `i` is below `data.len()`; a byte is always aligned.
        unsafe { AtomicU8::from_ptr(to.add(i)) }.store(byte, Ordering::Relaxed);
    }
    for (i, &word) in words.iter().enumerate() {
        // SAFETY: the word ends at or below `end`, and `to.add(middle)` is aligned to words.
        let to = unsafe { AtomicU64::from_ptr(to.add(middle + i * WORD).cast()) };
        to.store(u64::from_ne_bytes(word), Ordering::Relaxed);
    }
    for (i, &byte) in tail.iter().enumerate() {
        // SAFETY: `end + i` is below `data.len()`.
        unsafe { AtomicU8::from_ptr(to.add(end + i)) }.store(byte, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_alignment_and_length_is_copied_whole_and_touches_nothing_else() {
        let pattern: Vec<u8> = (1..=40).collect();
        for offset in 0..9 {
            for len in 0..=31 {
                let mut memory = vec![0_u8; 48];
                let at = NonNull::from(&mut *memory).cast::<u8>();
                let mut back = vec![0_u8; len];
                // SAFETY: `offset + len` is below the 48 bytes that nobody else uses.
                unsafe {
                    store(at.add(offset), &pattern[..len]);
                    load(at.add(offset), &mut back);
                }
                assert_eq!(back, pattern[..len]);
                assert_eq!(memory[offset..offset + len], pattern[..len]);
                assert!(memory[..offset].iter().chain(&memory[offset + len..]).all(|&byte| byte == 0));
            }
        }
    }
}
