//! What is asked of the whole controller, one after the other.

use std::collections::VecDeque;

use super::regs::{Enable, RegEffect};

/// Something that changes the state of the whole controller. `R` is what follows on a device reset.
#[derive(Debug, PartialEq, Eq)]
pub enum Op<R> {
    /// Start with this admin queue.
    Enable(Enable),
    /// Stop, and forget what the host set.
    Disable,
    /// Stop as by `Disable`, but tell the host that the controller has failed.
    Fail,
    /// Stop as by `Disable`, then this follows.
    Reset(R),
    /// Get ready for the power to go.
    Shutdown,
}

impl<R> From<RegEffect> for Op<R> {
    fn from(effect: RegEffect) -> Self {
        match effect {
            RegEffect::Enable(enable) => Self::Enable(enable),
            RegEffect::Disable => Self::Disable,
            RegEffect::Shutdown { .. } => Self::Shutdown,
        }
    }
}

/// What has not been begun yet. However fast a client writes registers, little is kept: what is asked of a life that is to end is
/// forgotten, but for device resets, each of which is answered.
#[derive(Debug)]
pub struct Ops<R>(VecDeque<Op<R>>);

impl<R> Default for Ops<R> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<R> Ops<R> {
    /// Adds what is asked. Whether nothing else waits.
    pub fn push(&mut self, op: Op<R>) -> bool {
        let was_empty = self.0.is_empty();
        let ends = |op: &Op<R>| matches!(op, Op::Disable | Op::Reset(_));
        match op {
            // It is the life before that end which has failed, and the host waits to hear of the end.
            Op::Fail if self.0.iter().any(ends) => return false,
            Op::Disable | Op::Fail | Op::Reset(_) => self.0.retain(|other| matches!(other, Op::Reset(_))),
            Op::Shutdown => self.0.retain(|other| !matches!(other, Op::Shutdown)),
            Op::Enable(_) => {}
        }
        self.0.push_back(op);
        was_empty
    }

    /// Takes what is next.
    pub fn pop(&mut self) -> Option<Op<R>> {
        self.0.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enable(asq: u64) -> Op<u8> {
        Op::Enable(Enable { asq, acq: 0, asqs: 2, acqs: 2 })
    }

    fn all(mut ops: Ops<u8>) -> Vec<Op<u8>> {
        std::iter::from_fn(|| ops.pop()).collect()
    }

    #[test]
    fn what_is_asked_of_a_life_that_ends_is_forgotten_but_resets_are_not() {
        let mut ops = Ops::default();
        assert!(ops.push(enable(1)), "the home must be told");
        for _ in 0..1000 {
            assert!(!ops.push(Op::Disable));
            assert!(!ops.push(enable(2)));
            assert!(!ops.push(Op::Shutdown));
            assert!(!ops.push(Op::Shutdown));
        }
        assert!(!ops.push(Op::Reset(7)));
        assert!(!ops.push(Op::Disable));
        assert!(!ops.push(enable(3)));
        assert_eq!(ops.pop(), Some(Op::Reset(7)));
        assert_eq!(all(ops), [Op::Disable, enable(3)]);
    }

    #[test]
    fn a_failure_does_not_hide_that_the_host_has_ended_that_life() {
        let mut ops = Ops::default();
        ops.push(Op::Disable);
        ops.push(enable(1));
        assert!(!ops.push(Op::Fail));
        assert_eq!(all(ops), [Op::Disable, enable(1)]);
    }

    #[test]
    fn a_failure_ends_what_was_asked_of_the_life_that_failed() {
        let mut ops = Ops::default();
        ops.push(Op::Shutdown);
        assert!(!ops.push(Op::Fail));
        assert_eq!(all(ops), [Op::Fail]);
    }
}
