//! What is asked of a controller as a whole, one after the other.

use std::collections::VecDeque;

use crate::model::regs::{Enable, RegEffect};

/// Something that changes the state of the whole controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// The host has set CC.EN to 1: start with this admin queue.
    Enable(Enable),
    /// The host has set CC.EN to 0: stop, and forget what the host set.
    Disable,
    /// Stop as by `Disable`, but tell the host that the controller has failed.
    Fail,
    /// A device reset: stop as by `Disable`, then tell the client that the reset of that number is over.
    Reset {
        /// By which the client's connection knows the reset.
        number: u64,
    },
    /// The host has set CC.SHN: get ready for the power to go.
    Shutdown,
}

impl From<RegEffect> for Request {
    fn from(effect: RegEffect) -> Self {
        match effect {
            RegEffect::Enable(enable) => Self::Enable(enable),
            RegEffect::Disable => Self::Disable,
            RegEffect::Shutdown { .. } => Self::Shutdown,
        }
    }
}

/// Requests that the admin worker has not begun yet. However fast a client writes registers, few are kept: what is
/// asked of an enable cycle that is to end is forgotten, but for device resets, each of which is answered.
#[derive(Debug, Default)]
pub struct Requests(VecDeque<Request>);

impl Requests {
    /// Adds a request. Returns whether it is the only one, and so the admin worker has to be told.
    pub fn push(&mut self, request: Request) -> bool {
        let was_empty = self.0.is_empty();
        let ends = |request: &Request| matches!(request, Request::Disable | Request::Reset { .. });
        match request {
            // It is the cycle before that end which has failed, and the host waits to hear of the end.
            Request::Fail if self.0.iter().any(ends) => return false,
            Request::Disable | Request::Fail | Request::Reset { .. } => {
                self.0.retain(|other| matches!(other, Request::Reset { .. }));
            }
            Request::Shutdown => self.0.retain(|other| *other != Request::Shutdown),
            Request::Enable(_) => {}
        }
        self.0.push_back(request);
        was_empty
    }

    /// Takes what is next.
    pub fn pop(&mut self) -> Option<Request> {
        self.0.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enable(asq: u64) -> Request {
        Request::Enable(Enable { asq, acq: 0, asqs: 2, acqs: 2 })
    }

    fn all(mut requests: Requests) -> Vec<Request> {
        std::iter::from_fn(|| requests.pop()).collect()
    }

    #[test]
    fn what_is_asked_of_a_cycle_that_ends_is_forgotten_but_resets_are_not() {
        let mut requests = Requests::default();
        assert!(requests.push(enable(1)), "the admin worker must be told");
        for _ in 0..1000 {
            assert!(!requests.push(Request::Disable));
            assert!(!requests.push(enable(2)));
            assert!(!requests.push(Request::Shutdown));
            assert!(!requests.push(Request::Shutdown));
        }
        assert!(!requests.push(Request::Reset { number: 7 }));
        assert!(!requests.push(Request::Disable));
        assert!(!requests.push(enable(3)));
        assert_eq!(requests.pop(), Some(Request::Reset { number: 7 }));
        assert_eq!(all(requests), [Request::Disable, enable(3)]);
    }

    #[test]
    fn a_failure_does_not_hide_that_the_host_has_ended_that_cycle() {
        let mut requests = Requests::default();
        requests.push(Request::Disable);
        requests.push(enable(1));
        assert!(!requests.push(Request::Fail));
        assert_eq!(all(requests), [Request::Disable, enable(1)]);
    }

    #[test]
    fn a_failure_ends_what_was_asked_of_the_cycle_that_failed() {
        let mut requests = Requests::default();
        requests.push(Request::Shutdown);
        assert!(!requests.push(Request::Fail));
        assert_eq!(all(requests), [Request::Fail]);
    }
}
