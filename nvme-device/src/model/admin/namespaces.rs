//! The namespaces that the controller has, and which of them changed since the host last asked.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::Controller;
use super::events::Event;
use crate::model::io::IoSupport;
use nvme_spec::Status;

/// The most namespaces, and the largest NSID (NN and MNAN).
pub const MAX_NAMESPACES: u32 = 256;

/// The sizes of blocks that a host can be offered: 512 bytes to 64 KiB.
const BLOCK_SHIFTS: std::ops::RangeInclusive<u8> = 9..=16;

// The Changed Namespace List holds 1024 NSIDs, and has another form where there are more of them.
const _: () = assert!(MAX_NAMESPACES <= 1024);

/// A namespace that the controller cannot have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NamespaceError {
    /// The NSID is 0 or too large.
    #[error("an NSID must be 1 to {MAX_NAMESPACES}, got {0}")]
    NsidOutOfRange(u32),
    /// There is a namespace with that NSID.
    #[error("the NSID {0} is in use")]
    NsidInUse(u32),
    /// There is no namespace with that NSID.
    #[error("there is no namespace with the NSID {0}")]
    NotFound(u32),
    /// Blocks that are too small or too large.
    #[error("a block must have 2^9 (512) to 2^16 (65536) bytes, got 2^{0}")]
    BlockSize(u8),
    /// No block, or more bytes than 64 bits count.
    #[error("a namespace must have at least one block and less than 2^64 bytes, got {0} blocks")]
    Size(u64),
}

/// A namespace as the host shall see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Namespace identifier: 1 to [`MAX_NAMESPACES`].
    pub nsid: u32,
    /// Size in logical blocks.
    pub blocks: u64,
    /// The size of a block, as an exponent of two in bytes: 9 to 16.
    pub block_shift: u8,
    /// UUID; zeroes for none.
    pub uuid: [u8; 16],
    /// Namespace globally unique identifier, as it is sent; zeroes for none.
    pub nguid: [u8; 16],
    /// IEEE extended unique identifier, as it is sent; zeroes for none.
    pub eui64: [u8; 8],
    /// What it can do.
    pub supports: IoSupport,
    /// The most blocks of a fused Compare and Write (NACWU); 0 is 1.
    pub compare_and_write_blocks: u16,
    /// Blocks at whose multiples an I/O should not cross (NOIOB); 0 for none.
    pub optimal_boundary_blocks: u16,
    /// Blocks in which it is best written (NPWG, NPWA, NOWS); 0 where nothing is known.
    pub preferred_write_blocks: u16,
    /// Blocks in which it is best deallocated (NPDG, NPDA); 0 where nothing is known.
    pub preferred_unmap_blocks: u16,
    /// It cannot be written.
    pub write_protected: bool,
}

impl Namespace {
    /// Returns whether a controller can have it, but for its NSID.
    ///
    /// # Errors
    /// What is wrong with its shape.
    pub fn check(&self) -> Result<(), NamespaceError> {
        if !BLOCK_SHIFTS.contains(&self.block_shift) {
            return Err(NamespaceError::BlockSize(self.block_shift));
        }
        self.check_size(self.blocks)
    }

    fn check_size(&self, blocks: u64) -> Result<(), NamespaceError> {
        if blocks == 0 || blocks > u64::MAX >> self.block_shift {
            return Err(NamespaceError::Size(blocks));
        }
        Ok(())
    }
}

/// The active namespaces, and the Changed Namespace List.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    /// NN is that of the last one; else it is always [`MAX_NAMESPACES`].
    nn_follows: bool,
    active: BTreeMap<u32, Namespace>,
    changed: BTreeSet<u32>,
    /// Namespaces that are gone, of which the host may not know that yet, by NSID.
    unseen: BTreeMap<u32, Namespace>,
    /// How often namespaces came or went since the controller was reset (the Change Count of log page 0Ch).
    attachments: u64,
}

impl Namespaces {
    /// Returns the namespace with that NSID, or `None` for an NSID that is valid but inactive (section 3.2.1).
    pub(super) fn lookup(&self, nsid: u32) -> Result<Option<&Namespace>, Status> {
        if (1..=self.nn()).contains(&nsid) { Ok(self.active.get(&nsid)) } else { Err(Status::INVALID_NAMESPACE) }
    }

    /// None yet. Returns whether NN follows the last one: hosts that know no lists ask for each NSID up to it, others
    /// read it once and take no namespace beyond.
    pub(super) fn new(nn_follows: bool) -> Self {
        Self { nn_follows, ..Self::default() }
    }

    /// Returns the largest NSID that is valid (NN).
    pub(super) fn nn(&self) -> u32 {
        let last = || self.active.last_key_value().map_or(1, |(nsid, _)| *nsid);
        if self.nn_follows { last() } else { MAX_NAMESPACES }
    }

    /// The host was told what there is at `nsid`.
    pub(super) fn mark_seen(&mut self, nsid: u32) {
        self.unseen.remove(&nsid);
    }

    /// The host was told of all namespaces above `nsid`.
    pub(super) fn mark_seen_above(&mut self, nsid: u32) {
        self.unseen.retain(|gone, _| *gone <= nsid);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Namespace> {
        self.active.values()
    }

    /// Returns the active NSIDs above `nsid`.
    pub(super) fn above(&self, nsid: u32) -> impl Iterator<Item = u32> {
        self.active.range((Bound::Excluded(nsid), Bound::Unbounded)).map(|(nsid, _)| *nsid)
    }

    /// Returns what the controller tells of itself by them.
    pub(super) fn supports(&self) -> IoSupport {
        IoSupport::of_controller(self.iter().map(|namespace| namespace.supports))
    }

    pub(super) const fn changed(&self) -> &BTreeSet<u32> {
        &self.changed
    }

    pub(super) fn forget_changes(&mut self) {
        self.changed.clear();
    }

    /// Returns how often namespaces came or went since the controller was reset.
    pub(super) const fn attachments(&self) -> u64 {
        self.attachments
    }

    /// The controller was reset.
    pub(super) fn reset(&mut self) {
        self.forget_changes();
        self.unseen.clear();
        self.attachments = 0;
    }
}

impl Controller {
    /// Adds a namespace, and tells the host of it if that is listening.
    ///
    /// # Errors
    /// The NSID is out of range or in use, or the host cannot be offered such a namespace.
    pub(crate) fn add_namespace(&mut self, namespace: Namespace) -> Result<(), NamespaceError> {
        let nsid = namespace.nsid;
        if !(1..=MAX_NAMESPACES).contains(&nsid) {
            return Err(NamespaceError::NsidOutOfRange(nsid));
        }
        if self.namespaces.active.contains_key(&nsid) {
            return Err(NamespaceError::NsidInUse(nsid));
        }
        namespace.check()?;
        self.namespaces.unseen.remove(&nsid);
        self.namespaces.active.insert(nsid, namespace);
        self.namespaces.attachments = self.namespaces.attachments.wrapping_add(1);
        self.namespace_changed(nsid);
        Ok(())
    }

    /// Takes a namespace away and tells the host; false if there was none.
    pub(crate) fn remove_namespace(&mut self, nsid: u32) -> bool {
        let removed = self.namespaces.active.remove(&nsid);
        let was_there = removed.is_some();
        if let Some(removed) = removed {
            if self.enabled {
                self.namespaces.unseen.entry(nsid).or_insert(removed);
            }
            self.features.forget_namespace(nsid);
            self.namespaces.attachments = self.namespaces.attachments.wrapping_add(1);
            self.namespace_changed(nsid);
        }
        was_there
    }

    /// Returns whether the host may take this namespace for another, which was at its NSID until a moment ago: it has
    /// not yet been told what namespaces there are since. Linux takes a namespace for broken that has become another.
    #[must_use]
    pub(crate) fn would_be_mistaken(&self, namespace: &Namespace) -> bool {
        let identity =
            |namespace: &Namespace| (namespace.uuid, namespace.nguid, namespace.eui64, namespace.block_shift);
        self.namespaces.unseen.get(&namespace.nsid).is_some_and(|gone| identity(gone) != identity(namespace))
    }

    /// The host has had time enough to learn that the namespace that was at `nsid` is gone.
    pub(crate) fn forget_removal(&mut self, nsid: u32) {
        self.namespaces.mark_seen(nsid);
    }

    /// Gives a namespace another size, in blocks, and tells the host.
    ///
    /// # Errors
    /// There is no such namespace, or it cannot have that size.
    pub(crate) fn resize_namespace(&mut self, nsid: u32, blocks: u64) -> Result<(), NamespaceError> {
        let namespace = self.namespaces.active.get_mut(&nsid).ok_or(NamespaceError::NotFound(nsid))?;
        namespace.check_size(blocks)?;
        if namespace.blocks != blocks {
            namespace.blocks = blocks;
            self.namespace_changed(nsid);
        }
        Ok(())
    }

    /// Returns the namespace with that NSID.
    #[cfg(test)]
    pub(crate) fn namespace(&self, nsid: u32) -> Option<&Namespace> {
        self.namespaces.active.get(&nsid)
    }

    /// Returns the namespaces in ascending order of their NSIDs.
    #[cfg(test)]
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.namespaces.iter()
    }

    fn namespace_changed(&mut self, nsid: u32) {
        // A host that has not started yet reads everything anew when it does.
        if self.enabled {
            self.namespaces.changed.insert(nsid);
            if self.features.notifies_namespace_changes() {
                self.events.raise(Event::NamespaceAttributeChanged);
            }
        }
    }
}
