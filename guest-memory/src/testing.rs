//! What the tests of this module share.
#![expect(unsafe_code, reason = "I/O vectors are followed")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::{Access, Extent, GuestMemory, MemView, Region, memfd};

pub(super) const PAGE: u64 = super::host::PAGE;

/// An I/O vector of nothing: what an array of them is filled with to begin with.
pub(super) const EMPTY: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

/// Returns a memfd of `len` bytes of zeros.
pub(super) fn file(len: u64) -> File {
    memfd::create(c"courier-test", len, 0).expect("a memfd")
}

/// Returns a memfd of `pages` pages, in which each 8-byte word tells its own offset.
pub(super) fn patterned(pages: u64) -> File {
    let file = file(pages * PAGE);
    let words: Vec<u8> = (0..pages * PAGE / 8).flat_map(|word| (word * 8).to_le_bytes()).collect();
    file.write_all_at(&words, 0).expect("room in the memfd");
    file
}

/// Returns a region of `file` that nobody waits for.
pub(super) fn region_of(file: &File, offset: u64, gpa: u64, len: u64) -> Arc<Region> {
    let file = file.try_clone().expect("a descriptor").into();
    Arc::new(
        Extent::new(offset, gpa, len, Access::ReadWrite)
            .and_then(|of| Region::map(file, of, |_| {}))
            .expect("a region"),
    )
}

/// Returns a view of these regions.
pub(super) fn view_of(regions: impl IntoIterator<Item = Arc<Region>>) -> MemView {
    let memory =
        regions.into_iter().fold(GuestMemory::new(), |memory, region| memory.with(region).expect("no overlap"));
    MemView::new(Arc::new(memory))
}

/// Returns the bytes that I/O vectors of `_view` name.
pub(super) fn gather(_view: &MemView, iovs: &[libc::iovec]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for iov in iovs {
        // SAFETY: the vectors were translated by the view, and the test is the only one that uses its memory.
        bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(iov.iov_base.cast(), iov.iov_len) });
    }
    bytes
}
