//! The primitives that [`super::order`] is made of. The model checker's tests compile that file with primitives of its
//! own.

pub(super) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
pub(super) use std::sync::{Arc, Mutex};
