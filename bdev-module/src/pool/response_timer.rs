//! How long a queue that holds commands has had no answer.

use std::time::{Duration, Instant};

/// The most that one look at a queue counts for: when this process itself did not run, nothing was listened to.
const LONGEST_STEP: Duration = Duration::from_secs(1);

/// What is to be done about a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing.
    Fine,
    /// A command is to be sent that is answered at once by a pool that lives.
    Probe,
    /// The queue is to be dropped.
    Hung,
}

/// Measures a queue's silence.
#[derive(Debug)]
pub(crate) struct ResponseTimer {
    limit: Duration,
    /// When the next probe is due, from the beginning of the silence on.
    probe_after: Duration,
    /// A shorter limit, for this silence.
    shortened: Option<Duration>,
    silent: Duration,
    probed: bool,
    looked: Instant,
    answered: u64,
}

impl ResponseTimer {
    /// A queue counts as hung after `limit`, and is probed after `probe_after`.
    pub(crate) fn new(limit: Duration, probe_after: Duration, now: Instant) -> Self {
        Self { limit, probe_after, shortened: None, silent: Duration::ZERO, probed: false, looked: now, answered: 0 }
    }

    /// The queue begins anew.
    pub(crate) fn restart(&mut self, now: Instant) {
        *self = Self::new(self.limit, self.probe_after, now);
    }

    /// From now on until its next answer, the queue, of whose commands `answered` have ended so far, counts as hung
    /// after `limit`.
    pub(crate) fn shorten(&mut self, limit: Duration, answered: u64) {
        if (self.shortened.is_none() || answered != self.answered) && limit < self.limit {
            self.answered = answered;
            self.shortened = Some(limit);
            self.silent = Duration::ZERO;
            self.probed = false;
        }
    }

    /// Looks at the queue, of whose commands `answered` have ended so far and `pending` have not.
    pub(crate) fn look(&mut self, now: Instant, answered: u64, pending: u32) -> Verdict {
        let step = now.saturating_duration_since(self.looked).min(LONGEST_STEP);
        self.looked = now;
        if pending == 0 || answered != self.answered {
            (self.answered, self.shortened, self.silent, self.probed) = (answered, None, Duration::ZERO, false);
            return Verdict::Fine;
        }
        self.silent += step;
        let limit = self.shortened.unwrap_or(self.limit);
        if self.silent >= limit {
            return Verdict::Hung;
        }
        if !self.probed && self.silent >= self.probe_after.min(limit / 2) {
            self.probed = true;
            return Verdict::Probe;
        }
        Verdict::Fine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(500);

    fn silence(now: Instant) -> ResponseTimer {
        ResponseTimer::new(Duration::from_secs(10), Duration::from_secs(5), now)
    }

    /// The verdicts of looks at every half second at a queue that answers nothing, until it is hung.
    fn until_hung(silence: &mut ResponseTimer, mut now: Instant) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        while verdicts.last() != Some(&Verdict::Hung) {
            now += STEP;
            verdicts.push(silence.look(now, 7, 1));
            assert!(verdicts.len() < 100, "it is hung some time");
        }
        verdicts
    }

    #[test]
    fn a_queue_without_answers_is_probed_once_and_then_hung() {
        let now = Instant::now();
        let mut silence = silence(now);
        assert_eq!(silence.look(now, 7, 1), Verdict::Fine);
        let verdicts = until_hung(&mut silence, now);
        assert_eq!(verdicts.len(), 20);
        assert_eq!(verdicts.iter().position(|&verdict| verdict == Verdict::Probe), Some(9));
        assert_eq!(verdicts.iter().filter(|&&verdict| verdict == Verdict::Fine).count(), 18);
    }

    #[test]
    fn an_answer_or_an_empty_queue_begins_anew() {
        for (answered, pending) in [(8, 1), (7, 0)] {
            let mut now = Instant::now();
            let mut silence = silence(now);
            silence.look(now, 7, 1);
            for _ in 0..19 {
                now += STEP;
                assert_ne!(silence.look(now, 7, 1), Verdict::Hung);
            }
            now += STEP;
            assert_eq!(silence.look(now, answered, pending), Verdict::Fine);
            silence.look(now, 7, 1);
            assert_eq!(until_hung(&mut silence, now).len(), 20);
        }
    }

    #[test]
    fn time_in_which_nobody_listened_counts_a_second_at_most() {
        let now = Instant::now();
        let mut silence = silence(now);
        silence.look(now, 7, 1);
        assert_eq!(silence.look(now + Duration::from_secs(3_600), 7, 1), Verdict::Fine);
    }

    #[test]
    fn a_hurried_queue_has_the_shorter_limit_until_it_answers() {
        let now = Instant::now();
        let mut silence = silence(now);
        silence.look(now, 7, 1);
        silence.shorten(Duration::from_secs(2), 7);
        assert_eq!(until_hung(&mut silence, now), [Verdict::Fine, Verdict::Probe, Verdict::Fine, Verdict::Hung]);
        silence.restart(now);
        silence.look(now, 7, 1);
        silence.shorten(Duration::from_secs(2), 7);
        silence.look(now, 8, 1);
        silence.look(now, 7, 1);
        assert_eq!(until_hung(&mut silence, now).len(), 20);
    }

    #[test]
    fn an_answer_before_a_queue_is_hurried_does_not_end_that() {
        let now = Instant::now();
        let mut silence = silence(now);
        silence.look(now, 6, 1);
        // The seventh came since it was looked at last.
        silence.shorten(Duration::from_secs(2), 7);
        assert_eq!(until_hung(&mut silence, now).len(), 4);
    }

    #[test]
    fn hurrying_again_does_not_put_the_limit_off() {
        let now = Instant::now();
        let mut silence = silence(now);
        silence.look(now, 7, 1);
        silence.shorten(Duration::from_secs(2), 7);
        for n in 1..=3 {
            assert_ne!(silence.look(now + n * STEP, 7, 1), Verdict::Hung);
            silence.shorten(Duration::from_secs(2), 7);
        }
        assert_eq!(silence.look(now + 4 * STEP, 7, 1), Verdict::Hung);
    }
}
