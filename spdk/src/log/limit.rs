//! How many lines of one kind the log takes: a burst, and then so many a second. What is left out is counted and told
//! of.
//!
//! A kind is a place in a source file, a level and whoever the line is about, so that a flood of one line hides no
//! other. The table has a fixed size: a kind that has been silent for as long as its burst lasts is the same as one
//! that was never seen, and makes room.

use std::time::Duration;

/// So many lines of a kind are written in a row.
pub(super) const BURST: u32 = 100;
/// The time in which a kind earns another line after that.
pub(super) const INTERVAL: Duration = Duration::from_millis(100);
/// How many kinds are told apart at a time, at most.
const KINDS: usize = 256;
/// A flood has ended when nothing was left out for so long.
const QUIET: Duration = Duration::from_secs(1);
/// A flood that does not end is told of as often as this.
const TELL: Duration = Duration::from_secs(10);

/// A kind of line, as it comes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind<'a> {
    /// As in `spdk_log_level`.
    pub(super) level: i32,
    /// The source file.
    pub(super) file: &'a [u8],
    /// The line in it.
    pub(super) line: i32,
    /// The function or module.
    pub(super) who: &'a [u8],
    /// The name of what it is about, or nothing.
    pub(super) about: &'a [u8],
}

impl Kind<'_> {
    /// Returns what kinds are told apart by (FNV-1a).
    fn key(&self) -> u64 {
        let (level, line) = (self.level.to_le_bytes(), self.line.to_le_bytes());
        let parts = [self.file, &[0], self.about, &level, &line];
        let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        parts.into_iter().flatten().fold(0xcbf2_9ce4_8422_2325, hash)
    }
}

/// What becomes of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is written: there was none like it lately.
    First,
    /// It is written.
    Within,
    /// It is left out.
    LeftOut,
}

/// How many lines of a kind were left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) level: i32,
    pub(super) file: Text,
    pub(super) line: i32,
    pub(super) who: Text,
    pub(super) about: Text,
    pub(super) left_out: u64,
    pub(super) within: Duration,
}

/// As much of a text as there is room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Text {
    bytes: [u8; 48],
    len: usize,
}

impl Text {
    fn of(text: &[u8]) -> Self {
        let mut short = Self { bytes: [0; 48], len: 0 };
        for (to, from) in short.bytes.iter_mut().zip(text) {
            *to = *from;
            short.len += 1;
        }
        short
    }

    /// Returns the text.
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// One kind's place. Times are from an arbitrary begin.
#[derive(Debug, Clone, Copy)]
struct Place {
    key: u64,
    /// When the lines that were written are paid for (the theoretical arrival time of GCRA).
    paid: Duration,
    told: Summary,
    /// The first and the last line that was left out since the last summary.
    first: Duration,
    last: Duration,
}

impl Place {
    fn new(key: u64, kind: &Kind<'_>) -> Self {
        let (file, who, about) = (Text::of(kind.file), Text::of(kind.who), Text::of(kind.about));
        let (left_out, within) = (0, Duration::ZERO);
        let told = Summary { level: kind.level, file, line: kind.line, who, about, left_out, within };
        Self { key, paid: Duration::ZERO, told, first: Duration::ZERO, last: Duration::ZERO }
    }

    /// Returns whether the kind is the same as one that was never seen.
    fn is_idle(&self, now: Duration) -> bool {
        self.paid <= now && self.told.left_out == 0
    }
}

/// What was written lately.
#[derive(Debug)]
pub(super) struct Limiter {
    places: Vec<Place>,
    /// Lines that were left out of kinds whose places were needed for others.
    forgotten: u64,
}

impl Limiter {
    pub(super) const fn new() -> Self {
        Self { places: Vec::new(), forgotten: 0 }
    }

    /// Returns what becomes of a line of that kind at `now`.
    pub(super) fn admit(&mut self, kind: &Kind<'_>, now: Duration) -> Verdict {
        let Some(place) = self.place(kind, now) else { return Verdict::First };
        let is_first = place.paid <= now;
        if place.paid.saturating_sub(now) > INTERVAL * (BURST - 1) {
            if place.told.left_out == 0 {
                place.first = now;
            }
            place.last = now;
            place.told.left_out = place.told.left_out.saturating_add(1);
            return Verdict::LeftOut;
        }
        place.paid = place.paid.max(now).saturating_add(INTERVAL);
        if is_first { Verdict::First } else { Verdict::Within }
    }

    /// Returns a summary that is due at `now`, or that there is, if this is the end. To be called until there is none.
    pub(super) fn summary(&mut self, now: Duration, is_end: bool) -> Option<Summary> {
        let is_due = |place: &&mut Place| {
            let is_over = now.saturating_sub(place.last) >= QUIET || now.saturating_sub(place.first) >= TELL;
            place.told.left_out > 0 && (is_end || is_over)
        };
        let place = self.places.iter_mut().find(is_due)?;
        let within = place.last.saturating_sub(place.first);
        let told = Summary { within, ..place.told };
        place.told.left_out = 0;
        Some(told)
    }

    /// Returns how many lines were left out that no summary tells of, since the last call.
    pub(super) fn take_forgotten(&mut self) -> u64 {
        std::mem::take(&mut self.forgotten)
    }

    fn place(&mut self, kind: &Kind<'_>, now: Duration) -> Option<&mut Place> {
        let key = kind.key();
        if let Some(at) = self.places.iter().position(|place| place.key == key) {
            return self.places.get_mut(at);
        }
        let new = Place::new(key, kind);
        // The place of a kind that is idle, a new one, or that of the kind that has written least lately.
        let (at, before) =
            self.places.iter().enumerate().min_by_key(|(_, place)| (!place.is_idle(now), place.paid)).unzip();
        if self.places.len() < KINDS && before.is_none_or(|place| !place.is_idle(now)) {
            self.places.push(new);
            return self.places.last_mut();
        }
        let place = self.places.get_mut(at?)?;
        self.forgotten = self.forgotten.saturating_add(place.told.left_out);
        *place = new;
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn kind(line: i32, about: &str) -> Kind<'_> {
        Kind { level: 0, file: b"nvme_qpair.c", line, who: b"abort", about: about.as_bytes() }
    }

    /// Returns how many of so many lines are written.
    fn written(limiter: &mut Limiter, kind: &Kind<'_>, lines: u32, now: Duration) -> u32 {
        (0..lines).map(|_| u32::from(limiter.admit(kind, now) != Verdict::LeftOut)).sum()
    }

    #[test]
    fn a_flood_has_its_burst_and_then_a_line_for_each_interval() {
        let mut limiter = Limiter::new();
        let mut all = written(&mut limiter, &kind(1, ""), 10_000, SECOND);
        assert_eq!(all, BURST);
        for millisecond in 1..=3_000 {
            all += written(&mut limiter, &kind(1, ""), 10, SECOND + Duration::from_millis(millisecond));
        }
        assert_eq!(all, BURST + 30);
        assert_eq!(written(&mut limiter, &kind(1, ""), 10_000, SECOND * 60), BURST, "it has been silent since");
    }

    #[test]
    fn a_flood_hides_no_other_line() {
        let mut limiter = Limiter::new();
        assert_eq!(limiter.admit(&kind(1, "a"), SECOND), Verdict::First);
        written(&mut limiter, &kind(1, "a"), 10_000, SECOND);
        for other in [kind(2, "a"), kind(1, "b"), Kind { level: 1, ..kind(1, "a") }] {
            assert_eq!(limiter.admit(&other, SECOND), Verdict::First, "{other:?}");
            assert_eq!(limiter.admit(&other, SECOND), Verdict::Within, "{other:?}");
        }
    }

    #[test]
    fn a_line_that_comes_no_faster_than_the_interval_is_always_written() {
        let mut limiter = Limiter::new();
        for round in 0..10_000 {
            assert_ne!(limiter.admit(&kind(1, ""), INTERVAL * round), Verdict::LeftOut, "round {round}");
        }
        assert_eq!(limiter.summary(SECOND * 2_000, true), None);
    }

    #[test]
    fn what_was_left_out_is_told_once_when_the_flood_is_over() {
        let mut limiter = Limiter::new();
        written(&mut limiter, &kind(7, "p"), BURST + 5, SECOND);
        written(&mut limiter, &kind(7, "p"), 3, SECOND + INTERVAL / 2);
        assert_eq!(limiter.summary(SECOND + INTERVAL, false), None, "it may go on");
        let told = limiter.summary(SECOND * 3, false).expect("it is over");
        assert_eq!((told.file.as_bytes(), told.line, told.about.as_bytes()), (&b"nvme_qpair.c"[..], 7, &b"p"[..]));
        assert_eq!((told.left_out, told.within), (8, INTERVAL / 2));
        assert_eq!(limiter.summary(SECOND * 30, true), None);
    }

    #[test]
    fn a_flood_that_does_not_end_is_told_of_now_and_then() {
        let mut limiter = Limiter::new();
        let mut told = 0;
        for round in 0..3_500 {
            let now = SECOND + Duration::from_millis(round * 10);
            limiter.admit(&kind(1, ""), now);
            told += u32::from(limiter.summary(now, false).is_some());
        }
        assert!((2..=3).contains(&told), "{told} summaries in 35 s");
        assert!(limiter.summary(SECOND * 36, true).is_some());
    }

    #[test]
    fn more_kinds_than_there_is_room_for_are_written_and_what_is_forgotten_is_counted() {
        let mut limiter = Limiter::new();
        let many = i32::try_from(KINDS).expect("few") + 50;
        for line in 0..many {
            assert_eq!(limiter.admit(&kind(line, ""), SECOND), Verdict::First);
            assert_eq!(written(&mut limiter, &kind(line, ""), BURST, SECOND), BURST - 1);
        }
        let told = std::iter::from_fn(|| limiter.summary(SECOND, true)).map(|told| told.left_out).sum::<u64>();
        assert_eq!((told, limiter.take_forgotten()), (KINDS as u64, 50));
        assert_eq!(limiter.take_forgotten(), 0);
    }

    #[test]
    fn a_long_name_is_cut_and_still_told_apart() {
        let mut limiter = Limiter::new();
        let (long, longer) = ("n".repeat(100), "n".repeat(101));
        written(&mut limiter, &kind(1, &long), BURST + 1, SECOND);
        assert_eq!(limiter.admit(&kind(1, &longer), SECOND), Verdict::First);
        assert_eq!(limiter.summary(SECOND, true).map(|told| told.about.as_bytes().len()), Some(48));
    }
}
