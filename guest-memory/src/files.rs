//! The files of one client, of which its regions are parts.
//!
//! A VM without an IOMMU has few regions, and each is mapped by itself. With one, regions come and go by the thousand,
//! each a page or a few of the same file: then a window of the file is mapped once, and the regions in it cost no
//! mapping, no descriptor and no registration with devices.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::budget::LimitShare;
use super::error::MapError;
use super::host::PAGE;
use super::mapping::{Access, MappedFile, file_identity};
use super::region::{Extent, Region, RegionId};

/// So many regions are mapped by themselves.
const MAX_UNSHARED: u32 = 64;

/// The size of a window in bytes; it begins at a multiple of this.
const WINDOW: u64 = 1 << 30;

/// How long a window stays mapped after its last region: the next one may come soon.
const LINGER: Duration = Duration::from_secs(1);

/// A window is known by its file's device and number, whether it may be read only, and which of the file's it is.
type Key = (u64, u64, bool, u64);

/// What a client has mapped of its files.
#[derive(Debug)]
pub struct Files {
    share: LimitShare,
    maps: u32,
    windows: BTreeMap<Key, (Arc<MappedFile>, Instant)>,
    /// All that is mapped.
    all: Vec<Weak<MappedFile>>,
    /// How long the list may become before what is gone is taken out of it.
    most: usize,
}

impl Files {
    /// Returns an empty table. `share` is the client's of mappings.
    #[must_use]
    pub fn new(share: LimitShare) -> Self {
        Self { share, maps: 0, windows: BTreeMap::new(), all: Vec::new(), most: 64 }
    }

    /// Maps a region; see [`Region::map`].
    ///
    /// # Errors
    /// As there; and [`MapError::NoMappings`] when the client has its share.
    pub fn map(
        &mut self,
        file: OwnedFd,
        of: Extent,
        on_drop: impl FnOnce(RegionId) + Send + 'static,
    ) -> Result<Region, MapError> {
        self.maps = self.maps.saturating_add(1);
        let key = if self.maps > MAX_UNSHARED { window_of(&file, of) } else { None };
        let mapped = match key {
            Some((key, size)) => self.window(file, key, size, of)?,
            None => self.add(MappedFile::new(file, of.offset, of.len, of.access, &self.share)?),
        };
        Region::within(&mapped, of, on_drop)
    }

    /// Returns the window of that key, mapped if it is not, or not far enough.
    fn window(&mut self, file: OwnedFd, key: Key, size: u64, of: Extent) -> Result<Arc<MappedFile>, MapError> {
        if let Some((window, used)) = self.windows.get_mut(&key)
            && window.has(of.offset, of.len)
        {
            *used = Instant::now();
            return Ok(Arc::clone(window));
        }
        let start = key.3 * WINDOW;
        let whole = (size - start).min(WINDOW) / PAGE * PAGE;
        let window = self.add(MappedFile::new(file, start, whole, of.access, &self.share)?);
        self.windows.insert(key, (Arc::clone(&window), Instant::now()));
        Ok(window)
    }

    fn add(&mut self, mapped: Arc<MappedFile>) -> Arc<MappedFile> {
        if self.all.len() >= self.most {
            self.all.retain(|mapped| mapped.strong_count() > 0);
            self.most = 64 + 2 * self.all.len();
        }
        self.all.push(Arc::downgrade(&mapped));
        mapped
    }

    /// Returns whether every file still holds what is mapped of it, but for single pages.
    #[must_use]
    pub fn are_intact(&self) -> bool {
        self.all.iter().filter_map(Weak::upgrade).all(|mapped| mapped.is_intact())
    }

    /// Takes windows out that have had no region for a while. They are to be dropped where it may take long.
    pub fn take_unused(&mut self) -> Vec<Arc<MappedFile>> {
        let is_unused = |(_, (window, used)): &(&Key, &(Arc<MappedFile>, Instant))| {
            Arc::strong_count(window) == 1 && used.elapsed() >= LINGER
        };
        let unused: Vec<Key> = self.windows.iter().filter(is_unused).map(|(key, _)| *key).collect();
        unused.iter().filter_map(|key| self.windows.remove(key)).map(|(window, _)| window).collect()
    }

    /// Takes all windows out.
    pub fn take_all(&mut self) -> Vec<Arc<MappedFile>> {
        std::mem::take(&mut self.windows).into_values().map(|(window, _)| window).collect()
    }
}

/// Returns the window of `file` with `len` bytes at `offset`, if one has them all, and the file's size. What is wrong
/// with the file is told by who maps it.
fn window_of(file: &OwnedFd, of: Extent) -> Option<(Key, u64)> {
    let (device, number, size) = file_identity(file).ok()?;
    let end = of.offset.checked_add(of.len)?;
    let index = of.offset / WINDOW;
    let is_in_one = end.checked_sub(1)? / WINDOW == index && end <= size;
    is_in_one.then_some(((device, number, of.access == Access::ReadOnly, index), size))
}

#[cfg(test)]
mod tests {
    use super::super::budget::SharedLimit;
    use super::super::testing::{PAGE, patterned, view_of};
    use super::*;

    fn map(files: &mut Files, file: &std::fs::File, page: u64, gpa: u64) -> Result<Arc<Region>, MapError> {
        let file = file.try_clone().expect("a descriptor").into();
        files.map(file, Extent::new(page * PAGE, gpa, PAGE, Access::ReadWrite)?, |_| {}).map(Arc::new)
    }

    fn mapped(files: &Files) -> usize {
        files.all.iter().filter(|mapped| mapped.strong_count() > 0).count()
    }

    #[test]
    fn thousands_of_regions_of_one_file_are_one_mapping() {
        static BUDGET: SharedLimit = SharedLimit::new(1000);
        let file = patterned(256);
        let mut files = Files::new(LimitShare::of(&BUDGET));
        let regions: Vec<_> =
            (0..4000).map(|i| map(&mut files, &file, (i * 7) % 256, i * 2 * PAGE).expect("mapped")).collect();
        assert_eq!(mapped(&files), MAX_UNSHARED as usize + 1);
        let view = view_of(regions);
        let mut word = [0; 8];
        for i in [0, 63, 64, 1000, 3999] {
            view.read(i * 2 * PAGE, &mut word).expect("mapped");
            assert_eq!(u64::from_le_bytes(word), (i * 7) % 256 * PAGE, "region {i}");
        }
        assert_eq!(view.read(64 * 2 * PAGE + PAGE, &mut word), Err(super::super::Fault::Unmapped));
        assert!(files.are_intact());
        drop(view);
        assert_eq!(files.take_all().len(), 1);
        assert_eq!(mapped(&files), 0);
    }

    #[test]
    fn a_client_of_many_files_is_refused_and_another_is_not() {
        static BUDGET: SharedLimit = SharedLimit::new(200);
        let (mut greedy, mut modest) = (Files::new(LimitShare::of(&BUDGET)), Files::new(LimitShare::of(&BUDGET)));
        let mut held = Vec::new();
        let refused =
            (0..200).find_map(|i| map(&mut greedy, &patterned(1), 0, i * PAGE).map(|region| held.push(region)).err());
        assert_eq!((held.len(), refused.map(|error| error.errno())), (100, Some(libc::ENOSPC)));
        map(&mut modest, &patterned(1), 0, 0).expect("there is room for others");
    }

    #[test]
    fn a_file_that_shrinks_under_a_window_is_noticed_and_one_that_grows_is_mapped_further() {
        static BUDGET: SharedLimit = SharedLimit::new(1000);
        let file = patterned(8);
        let mut files = Files::new(LimitShare::of(&BUDGET));
        files.maps = MAX_UNSHARED;
        let first = map(&mut files, &file, 2, 0).expect("mapped");
        file.set_len(4 * PAGE).expect("shrunk");
        assert!(files.are_intact(), "no region had what is gone");
        file.set_len(16 * PAGE).expect("grown");
        let second = map(&mut files, &file, 12, PAGE).expect("mapped further");
        assert_eq!(mapped(&files), 2);
        file.set_len(12 * PAGE).expect("shrunk");
        assert!(!files.are_intact() && first.is_intact() && !second.is_intact());
    }
}
