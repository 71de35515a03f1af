"""Progress while the bench runs, and the time that is left."""

import sys
import time


class Progress:
    """A line on standard error for each pair of each case."""

    def __init__(self, groups):
        """`groups` has for each: the setup, its cases, the pairs, and the seconds that a pair of each case will take, by name."""
        self._seconds = {name: seconds for *_, expected in groups for name, seconds in expected.items()}
        self._steps = sum(len(cases) * pairs for _, cases, pairs, _ in groups)
        self._expected = sum(pairs * sum(expected.values()) for _, _, pairs, expected in groups)
        self._done = 0
        self._done_expected = 0.0
        self._start = time.monotonic()
        for setup, cases, pairs, expected in groups:
            say(f"    {setup.name}: {pairs} pairs of {len(cases)} case{'s' if len(cases) > 1 else ''}, "
                f"about {duration(pairs * sum(expected.values()))}")
        say(f"    {self._steps} measurements of a pair, about {duration(self._expected)} in all")

    def measured(self, case, number, names, pair):
        """Reports one pair of one case."""
        self._done += 1
        self._done_expected += self._seconds[case.name]
        left = (time.monotonic() - self._start) / self._done_expected * (self._expected - self._done_expected)
        figures = "; ".join(f"{figure.title} " + ", ".join(
            f"{name} {side[figure.key]:,.{figure.decimals}f}" for name, side in zip(names, pair)) for figure in case.figures[:3])
        step = f"{self._done:{len(str(self._steps))}}/{self._steps}"
        say(f"    [{step}] pair {number} {case.name:<13} {figures} ({duration(left)} left)")

    def disturbed(self, case, others):
        """Says that a turn cannot be trusted, and why."""
        say(f"        {case.name}: others used {others:.0%} of a core; kept all the same")


def say(text):
    """Tells the user, on standard error."""
    print(text, file=sys.stderr, flush=True)


def duration(seconds):
    """A time span for people."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
