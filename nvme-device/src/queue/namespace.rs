//! A namespace as the queues of one thread have it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::Backend;
use super::fence::{Fence, FenceGuard};
use crate::model::io::NsGeometry;

/// The most namespaces of a controller (NN).
pub const MAX_NAMESPACES: usize = crate::model::admin::MAX_NAMESPACES as usize;

/// A thread's way to one namespace. Every I/O holds it while it is in flight.
pub struct NamespaceChannel<B: Backend> {
    /// The namespace.
    pub nsid: u32,
    /// How large it is and what it can do; changes when it is resized.
    pub geometry: Cell<NsGeometry>,
    /// The backend's part.
    pub channel: B::Channel,
    /// The fence of the disk.
    fence: Option<Arc<Fence>>,
    /// The fence has been up since this channel is there.
    fenced: Cell<bool>,
    /// Commands are held back, for the fence or since the backend takes no more for now.
    holding: Cell<bool>,
    /// The channel is used by nothing new: the fence is up until it goes, with its last I/O.
    guard: Cell<Option<FenceGuard>>,
}

/// The namespaces of a session on one thread, by identifier less one.
pub(super) type NamespaceChannels<B> = RefCell<Vec<Option<Rc<NamespaceChannel<B>>>>>;

/// Returns where the namespace of an identifier is among them, if there can be one.
pub(super) fn namespace_index(nsid: u32) -> Option<usize> {
    usize::try_from(nsid.checked_sub(1)?).ok().filter(|index| *index < MAX_NAMESPACES)
}

impl<B: Backend> NamespaceChannel<B> {
    /// Returns a way to the namespace `nsid` by `channel`.
    pub fn new(nsid: u32, geometry: NsGeometry, channel: B::Channel) -> Self {
        Self {
            nsid,
            geometry: Cell::new(geometry),
            channel,
            fence: None,
            fenced: Cell::new(false),
            holding: Cell::new(false),
            guard: Cell::new(None),
        }
    }

    /// Returns the same, whose commands wait while `fence` is up now.
    #[must_use]
    pub fn behind(mut self, fence: &Arc<Fence>) -> Self {
        self.fenced.set(fence.is_up());
        self.holding.set(fence.is_up());
        self.fence = Some(Arc::clone(fence));
        self
    }

    /// Returns whether commands are held back.
    #[inline]
    pub(super) fn is_holding(&self) -> bool {
        self.holding.get()
    }

    /// Returns whether they are held back for the fence.
    pub(super) fn is_fenced(&self) -> bool {
        self.fenced.get()
    }

    /// The backend takes no more for now.
    pub(super) fn note_full(&self) {
        self.holding.set(true);
    }

    /// Lets commands through if the backend may take them again. Returns whether it was full until now.
    pub(super) fn reopen_if_room(&self) -> bool {
        let passes = self.holding.get() && !self.fenced.get() && B::has_room(&self.channel);
        passes && self.holding.replace(false)
    }

    /// Lets commands through if the fence has come down. Returns whether it has now.
    pub(super) fn reopen_if_unfenced(&self) -> bool {
        let is_up = self.fence.as_ref().is_some_and(|fence| fence.is_up());
        let passes = self.fenced.get() && !is_up && self.fenced.replace(false);
        if passes {
            self.holding.set(false);
        }
        passes
    }

    /// Nothing new uses the channel.
    pub(super) fn close(&self) {
        // Nobody looks for room in it any more.
        self.holding.set(self.fenced.get());
        self.guard.set(self.fence.as_ref().map(Fence::raise));
    }
}

impl<B: Backend> std::fmt::Debug for NamespaceChannel<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NamespaceChannel").field("nsid", &self.nsid).finish_non_exhaustive()
    }
}
