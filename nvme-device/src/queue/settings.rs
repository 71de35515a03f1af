//! What the host has set for all queues.

use super::{Backend, Coalescing, Queues};

/// What the host has set for all queues of a session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Where shadow doorbells and their event indexes are, if it uses them.
    pub shadow: Option<(u64, u64)>,
    /// Interrupt coalescing.
    pub coalescing: Coalescing,
    /// The vectors that it does not hold for.
    pub at_once: Vec<u16>,
}

impl<B: Backend> Queues<B> {
    /// Uses what the host has set.
    pub fn set(&self, settings: Settings) {
        self.set_shadow_doorbells(settings.shadow);
        self.set_coalescing(settings.coalescing, settings.at_once);
    }
}
