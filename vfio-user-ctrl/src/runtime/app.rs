//! What the application's thread does with its messages.

use super::messages::AppMessage;
use super::{endpoint, inspect, threads};

/// On the application's thread.
pub(super) fn act(message: AppMessage) {
    match message {
        AppMessage::Clear { ctrl } => endpoint::group_is_clear(ctrl),
        AppMessage::GroupEnded => threads::group_has_ended(),
        AppMessage::QueueStates { inspection, states } => inspect::answered(inspection, states),
    }
}
