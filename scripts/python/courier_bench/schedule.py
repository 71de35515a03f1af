"""The order of the measurements: who runs when, how long, and what is done again."""

from statistics import median

from .cases import by_setup
from .rig import Measurement
from .report import CaseResult, Progress

SLICE_S = 1
DISTURBED = 0.04
REPEATS = 3
# What a turn costs besides its load: attaching, detaching. And a pair: starting and stopping its processes.
TURN_OVERHEAD_S = 0.2
PAIR_OVERHEAD_S = 6.0


class Schedule:
    """All measurements of a bench: setup by setup, for every pair two fresh servers, and on these every case by turns."""

    def __init__(self, variants, cases, pairs, runtime, repeats=REPEATS):
        self._variants = variants
        self._repeats = repeats
        self._groups = by_setup(cases)
        self._pairs = pairs
        self._turns_per_case = max(1, runtime // SLICE_S)
        self._steps = len(cases) * pairs
        self.turns = self._steps * self._turns_per_case
        self.disturbed = 0

    def measure(self, rig):
        """Measures everything; returns a CaseResult per case."""
        seconds = 2 * self.turns * (SLICE_S + TURN_OVERHEAD_S) + len(self._groups) * self._pairs * PAIR_OVERHEAD_S
        progress = Progress(self._steps, seconds)
        pairs = {}
        for setup, cases in self._groups:
            for number in range(1, self._pairs + 1):
                order = self._variants if number % 2 else self._variants[::-1]
                for case, pair in self._measure_pair(rig, setup, cases, order, progress):
                    pairs.setdefault(case.name, []).append(pair)
                    progress.measured(case, number, [variant.name for variant in self._variants], pair)
        return [CaseResult(case, pairs[case.name]) for _, cases in self._groups for case in cases]

    def _measure_pair(self, rig, setup, cases, order, progress):
        servers = {variant: rig.start(variant, setup) for variant in order}
        for server in servers.values():
            rig.measure(server, cases[0], SLICE_S)  # warms up: the first touch of memory is slow
        for case in cases:
            measured = self._measure_case(rig, servers, order, case, progress)
            yield case, tuple(measured[variant] for variant in self._variants)
        rig.stop_servers()

    def _measure_case(self, rig, servers, order, case, progress):
        slices = {variant: [] for variant in order}
        for turn in range(self._turns_per_case):
            taken = self._undisturbed_turn(rig, servers, order[::-1] if turn % 2 else order, case, progress)
            for variant, measurement in taken.items():
                slices[variant].append(measurement)
        return {variant: _median_of(measurements) for variant, measurements in slices.items()}

    def _undisturbed_turn(self, rig, servers, sequence, case, progress):
        for _ in range(self._repeats + 1):
            taken = {variant: rig.measure(servers[variant], case, SLICE_S) for variant in sequence}
            others = max(measurement.others for measurement in taken.values())
            if others <= DISTURBED or not self._repeats:
                return taken
        self.disturbed += 1
        progress.disturbed(case, others)
        return taken


def _median_of(measurements):
    fields = Measurement.__dataclass_fields__
    return Measurement(**{name: median(getattr(measurement, name) for measurement in measurements) for name in fields})
