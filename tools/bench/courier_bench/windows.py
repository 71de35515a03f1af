"""Sides that are all under load, of which one at a time runs, for a tenth of a second: what drifts more slowly is the same for all."""

import contextlib
import math
import time

from .machine import Disturbance, Itself
from .process import MeasurementFailed

# Where instructions are counted nothing drifts, and each look at a counter takes many.
WINDOW_S = {"tcp": 0.1, "rdma": 1.0}
# How much of a window goes by before it counts: an I/O that was in flight while its side was suspended took long.
SETTLE = 0.05
# What it takes to let a side run, and to look at its counters.
SWITCH_S = 0.03
# For the loads to start, and for the last window to be over before they end.
SLACK_S = 0.6
WARM_UP_S = 0.5
# How much of each side is measured before it is asked whether others disturbed it.
TURN_S = 2
BEGIN_LOOK_S = 0.01
# The most that a load may take to begin and, when its time is over, to end.
BEGIN_S = END_S = 60.0


class Tally:
    """What a side did in its windows."""

    def __init__(self):
        self.seconds = 0.0
        self._ios = self._waited_s = self._cycles = self._busy = self._busy_and_idle = 0

    def window(self, side, length, watched):
        """Lets the side run for about `length` seconds in the context `watched()`, and counts."""
        side.resume()
        time.sleep(SETTLE * length)
        before, busy_before, idle_before = side.host.counters(), *side.server.process.busy_and_idle_cycles()
        with watched():
            time.sleep(length)
        after, busy_after, idle_after = side.host.counters(), *side.server.process.busy_and_idle_cycles()
        side.suspend()
        seconds, busy, idle = after.seconds - before.seconds, busy_after - busy_before, idle_after - idle_before
        self.seconds += seconds
        self._ios += after.ios - before.ios
        self._waited_s += after.waited_s - before.waited_s
        self._busy += busy
        self._busy_and_idle += busy + idle
        # The two processes are not looked at in the same moment.
        self._cycles += busy / (busy + idle) * seconds * after.cycles_per_second

    def sample(self):
        """The figures that come of it."""
        if not self._ios:
            raise MeasurementFailed("no I/O ended while a side was looked at")
        return {"iops": self._ios / self.seconds, "latency_us": self._waited_s / self._ios * 1e6,
                "cycles_per_io": self._cycles / self._ios, "b_busy": self._busy / self._busy_and_idle}


def measure(sides, case, seconds, profiler=None):
    """Loads these sides, by names, and lets them run in turn until each has had its seconds; a sample for each name."""
    length = min(WINDOW_S[case.setup.fabric], seconds)
    lasting = math.ceil(expected_s(len(sides), case, seconds))
    disturbance = Disturbance({Itself(), *(process for side in sides.values() for process in side.processes())})
    tallies = {name: Tally() for name in sides}
    with contextlib.ExitStack() as stack:
        watched = {name: stack.enter_context(profiler.sampling(case, side.server.variant, side.server.process.pid))
                   if profiler else contextlib.nullcontext for name, side in sides.items()}
        loads = _begin(sides.values(), case, lasting)
        last = time.monotonic() + lasting - SLACK_S - len(sides) * _window_s(length)
        order = list(sides)
        while time.monotonic() < last and min(tally.seconds for tally in tallies.values()) < seconds:
            for name in order:
                tallies[name].window(sides[name], length, watched[name])
            order.reverse()
        for side in sides.values():
            side.resume()
        for wait in loads:
            wait(lasting + END_S)
        for side in sides.values():
            side.suspend()
    others = disturbance.share()
    samples = {name: tally.sample() | {"others": others} for name, tally in tallies.items()}
    for name, side in sides.items() if profiler else ():
        profiler.measured(case, side.server.variant, samples[name])
    return samples


def turns_of(runtime):
    """How many turns make up so many seconds of each side, and the seconds of each turn."""
    turns = math.ceil(runtime / TURN_S)
    return turns, runtime / turns


def expected_s(sides, case, seconds):
    """How long so many sides take until each has had its seconds."""
    length = min(WINDOW_S[case.setup.fabric], seconds)
    return sides * seconds * _window_s(length) / length + SLACK_S


def _window_s(length):
    return SETTLE * length + length + SWITCH_S


def _begin(sides, case, seconds):
    """Starts the load of every side, and suspends all of them once each has done an I/O."""
    for side in sides:
        side.resume()
    before = [side.host.counters().ios for side in sides]
    loads = [side.host.begin(case, seconds) for side in sides]
    deadline = time.monotonic() + BEGIN_S
    for side, ios in zip(sides, before):
        while side.host.counters().ios == ios:
            if time.monotonic() > deadline:
                raise MeasurementFailed(f"{case.name}: {side.server.variant} did no I/O within {BEGIN_S:.0f} s")
            time.sleep(BEGIN_LOOK_S)
    for side in sides:
        side.suspend()
    return loads
