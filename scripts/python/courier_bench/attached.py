"""What attached but idle controllers cost: the speed of a busy one among them against that of one alone, and memory."""

from .rig import MeasurementFailed
from .stats import median_of

CONTROLLERS = 128
SLICE_S = 1
# Adding, attaching, detaching and removing the idle controllers of one variant.
FILL_S = 8.0
# That many are removed at a time, to be quick.
BATCH = 16
KIB = 1024


class Attached:
    """Measures the variants one after the other: one controller alone, the same among many, and alone again."""

    PAIR_OVERHEAD_S = 6.0 + 2 * FILL_S

    def __init__(self, runtime):
        self._among = max(1, runtime // SLICE_S)
        self._alone = max(1, self._among // 2)

    def seconds(self, case):
        """How long a pair of this case takes."""
        return 2 * (2 * self._alone + self._among) * SLICE_S if case.io_size else 0.0

    def measure_pair(self, rig, setup, cases, order, watch):
        """Yields every case with a sample for each variant."""
        load = next((case for case in cases if case.io_size), None)
        measured = {variant: self._measure_variant(rig, variant, setup, load, watch) for variant in order}
        for case in cases:
            yield case, {variant: speed if case is load else memory for variant, (speed, memory) in measured.items()}

    def _measure_variant(self, rig, variant, setup, load, watch):
        server = rig.start(variant, setup)
        server.resume()
        rig.attach(server, [0])
        rig.settle()
        alone = among = []
        if load:
            rig.load(server, load, SLICE_S)  # warms up
            alone = self._slices(rig, server, load, self._alone, watch)
        before = server.memory()
        _attach_the_idle(rig, server)
        after = server.memory()
        if load:
            reads = server.reads()
            among = self._slices(rig, server, load, self._among, watch)
            if server.reads() != reads:
                raise MeasurementFailed(f"{load.name}: the idle drives were read; the logs are in {rig.workdir}")
        _remove_the_idle(rig, server)
        if load:
            alone += self._slices(rig, server, load, self._alone, watch)
        rig.detach([0])
        rig.stop_servers()
        resident, heap = ((now - then) / (CONTROLLERS - 1) / KIB for now, then in zip(after, before))
        return _speed(alone, among) if load else None, {"rss_kib": resident, "heap_kib": heap}

    @staticmethod
    def _slices(rig, server, load, count, watch):
        return [watch.undisturbed(load, lambda: {"": rig.load(server, load, SLICE_S)})[""] for _ in range(count)]


def _attach_the_idle(rig, server):
    # One after the other, as VMs come: what this leaves unused between what is used, is memory that a process takes, too.
    for number in range(1, CONTROLLERS):
        server.add_drives([number])
        rig.attach(server, [number])
    rig.settle()


def _remove_the_idle(rig, server):
    numbers = range(1, CONTROLLERS)
    for start in range(0, len(numbers), BATCH):
        rig.detach(numbers[start:start + BATCH])
        server.remove_drives(numbers[start:start + BATCH])


def _speed(alone, among):
    alone, among = median_of(alone), median_of(among)
    return among | {"kept": among["iops"] / alone["iops"], "alone_iops": alone["iops"],
                    "alone_cycles_per_io": alone["cycles_per_io"]}
