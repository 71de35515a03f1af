"""Both variants in turn: two fresh servers, each with a process A of its own, and on these every case."""

import math

from . import windows
from .stats import median_of

BARE = "bare initiator"
BARE_S = 1
# Starting and ending the bare initiator.
BARE_OVERHEAD_S = 1.5


class Turns:
    """Measures the cases of a group; pair by pair the variants change places, and so the process A that each of them has."""

    # Starting and stopping the servers, and a warm-up.
    PAIR_OVERHEAD_S = 9.0

    def __init__(self, runtime):
        self._turns, self._turn_s = windows.turns_of(runtime)

    def seconds(self, case):
        """How long a pair of this case takes."""
        return self._turns * (math.ceil(windows.expected_s(2, case, self._turn_s)) + (BARE_S + BARE_OVERHEAD_S if case.bare else 0.0))

    def measure_pair(self, rig, setup, cases, order, watch):
        """Yields every case with a sample for each variant."""
        sides = {variant: rig.start(variant, setup, number) for number, variant in enumerate(order)}
        for side in sides.values():
            with side.running():
                side.attach([0])
        rig.measure(sides, cases[0], windows.WARM_UP_S)
        for case in cases:
            yield case, self._measure_case(rig, sides, case, watch)
        for side in sides.values():
            with side.running():
                side.detach([0])
        rig.stop_servers()

    def _measure_case(self, rig, sides, case, watch):
        turns = [watch.undisturbed(case, lambda: self._turn(rig, sides, case)) for _ in range(self._turns)]
        samples = {name: median_of([turn[name] for turn in turns]) for name in turns[0]}
        if case.bare:
            bare = samples.pop(BARE)["latency_us"]
            for sample in samples.values():
                sample |= {"bare_latency_us": bare, "added_us": sample["latency_us"] - bare}
        return samples

    def _turn(self, rig, sides, case):
        samples = rig.measure(sides, case, self._turn_s)
        return samples | {BARE: rig.measure_bare(case, BARE_S)} if case.bare else samples
