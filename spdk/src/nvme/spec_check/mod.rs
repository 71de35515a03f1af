//! `nvme-spec`, held against SPDK's headers as bindgen reads them: both were written from the specification, so a
//! number that differs is a mistake in one of them.
//!
//! What SPDK has no name for is listed, so that a constant that nobody compared is noticed.

mod bits;
mod layouts;
mod values;

use spdk_sys as sys;

/// Returns the bytes of one of SPDK's plain structures as a number.
#[track_caller]
fn raw<T: Copy>(value: T) -> u64 {
    let mut bytes = [0; 8];
    assert!(size_of::<T>() <= bytes.len(), "{} is larger than a quad word", std::any::type_name::<T>());
    // SAFETY: the value is as long as what is copied, and bindgen's structures of bit fields are arrays of bytes
    // without padding.
    unsafe { std::ptr::copy_nonoverlapping((&raw const value).cast(), bytes.as_mut_ptr(), size_of::<T>()) };
    u64::from_le_bytes(bytes)
}

/// Returns the bits of a number on which a part of it depends.
fn mask<T: PartialEq>(width: usize, part: impl Fn(u64) -> T) -> u64 {
    let none = part(0);
    (0..width * 8).map(|bit| 1 << bit).filter(|bit| part(*bit) != none).sum()
}
