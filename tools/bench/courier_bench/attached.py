"""What attached but idle controllers cost: the speed of a busy one among them against that of one alone, and memory."""

import math

from . import windows
from .process import MeasurementFailed
from .stats import median_of

CONTROLLERS = 128
# Adding, attaching, detaching and removing the idle controllers of one variant.
FILL_S = 8.0
# That many are removed at a time, to be quick.
BATCH = 16
KIB = 1024
ALONE, AMONG = "alone", "among"


class Attached:
    """Measures the variants one after the other: in turn a process with one controller, and one with many. So the IOPS of the variants
    cannot be compared, and are no figure of the case; the front end's cases do that.
    """

    PAIR_OVERHEAD_S = 12.0 + 2 * FILL_S

    def __init__(self, runtime):
        self._turns, self._turn_s = windows.turns_of(runtime)

    def seconds(self, case):
        """How long a pair of this case takes."""
        return 2 * self._turns * math.ceil(windows.expected_s(2, case, self._turn_s)) if case.io_size else 0.0

    def measure_pair(self, rig, setup, cases, order, watch):
        """Yields every case with a sample for each variant."""
        load = next((case for case in cases if case.io_size), None)
        measured = {variant: self._measure_variant(rig, variant, setup, load, watch, number) for number, variant in enumerate(order)}
        for case in cases:
            yield case, {variant: speed if case is load else memory for variant, (speed, memory) in measured.items()}

    def _measure_variant(self, rig, variant, setup, load, watch, number):
        sides = {AMONG: rig.start(variant, setup, number)}
        if load:
            # With the other process A; pair by pair they change places.
            sides[ALONE] = rig.start(variant, setup, 1 - number)
        for side in sides.values():
            with side.running():
                side.attach([0])
        if load:
            rig.measure(sides, load, windows.WARM_UP_S)
        with sides[AMONG].running() as among:
            before = among.server.memory()
            _attach_the_idle(among)
            after = among.server.memory()
        speed = self._speed(rig, sides, load, watch) if load else None
        with sides[AMONG].running() as among:
            _remove_the_idle(among)
        for side in sides.values():
            with side.running():
                side.detach([0])
        rig.stop_servers()
        resident, heap = ((now - then) / (CONTROLLERS - 1) / KIB for now, then in zip(after, before))
        return speed, {"rss_kib": resident, "heap_kib": heap}

    def _speed(self, rig, sides, load, watch):
        reads = _idle_reads(sides[AMONG])
        turns = [watch.undisturbed(load, lambda: rig.measure(sides, load, self._turn_s)) for _ in range(self._turns)]
        if _idle_reads(sides[AMONG]) != reads:
            raise MeasurementFailed(f"{load.name}: the idle drives were read; the logs are in {rig.workdir}")
        alone, among = (median_of([turn[name] for turn in turns]) for name in (ALONE, AMONG))
        return among | {"kept": among["iops"] / alone["iops"], "alone_cycles_per_io": alone["cycles_per_io"]}


def _attach_the_idle(side):
    # One after the other, as VMs come: what this leaves unused between what is used, is memory that a process takes, too.
    for number in range(1, CONTROLLERS):
        side.server.add_drives([number])
        side.attach([number])


def _remove_the_idle(side):
    numbers = range(1, CONTROLLERS)
    for start in range(0, len(numbers), BATCH):
        side.detach(numbers[start:start + BATCH])
        side.server.remove_drives(numbers[start:start + BATCH])


def _idle_reads(side):
    with side.running():
        return side.server.reads()
