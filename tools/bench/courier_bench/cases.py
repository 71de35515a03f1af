"""What is measured: what process B runs, the loads on it, figures, and the goals set for them."""

import enum
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Figure:
    """One number that a measurement yields."""

    key: str
    title: str
    decimals: int
    higher_is_better: bool


IOPS = Figure("iops", "IOPS", 0, True)
LATENCY = Figure("latency_us", "mean latency, µs", 2, False)
CYCLES = Figure("cycles_per_io", "cycles per I/O on B", 0, False)
ADDED = Figure("added_us", "latency added, µs", 2, False)
KEPT = Figure("kept", "IOPS among / alone", 3, True)
ALONE_CYCLES = Figure("alone_cycles_per_io", "cycles per I/O alone", 0, False)
RESIDENT = Figure("rss_kib", "resident, KiB", 1, False)
HEAP = Figure("heap_kib", "in hugepages, KiB", 1, False)
INTERRUPTS = Figure("interrupts_per_io", "interrupts per I/O", 4, False)


@dataclass(frozen=True)
class Goal:
    """What a figure must be: at least or at most `bound`. That is meant of Courier's ratio to stock or, if `own` is set, of
    Courier's own figure.
    """

    at_least: bool
    bound: float
    own: bool = False

    def met_by(self, comparison):
        """Whether a comparison of both meets the goal. A ratio that could not be measured does not."""
        value = comparison.second if self.own else comparison.ratio
        return value >= self.bound if self.at_least else value <= self.bound

    def as_ratio(self, comparison):
        """The goal as a ratio to what stock did."""
        return self.bound / comparison.first if self.own else self.bound

    def __str__(self):
        bound = f"{self.bound:g}" if self.own else f"{self.bound:.2f}"
        return f"{'courier' if self.own else ''}{'>=' if self.at_least else '<='}{bound}"


class Front(enum.Enum):
    """What the VM's drive is."""

    STOCK = "SPDK's front end"
    COURIER = "Courier's front end"


class Back(enum.Enum):
    """What the drive's data comes from."""

    NULL = "null bdev"
    STOCK = "bdev_nvme"
    COURIER = "Courier's bdev"


@dataclass(frozen=True)
class Chain:
    """What process B runs, from the VM to the data."""

    front: Front
    back: Back

    @property
    def needs_pool(self):
        """Whether process A has to be the storage pool, too."""
        return self.back is not Back.NULL

    def __str__(self):
        return f"{self.front.value} + {self.back.value}"


class Way(enum.Enum):
    """How the cases of a group are measured; schedule.PLANS has a class for each."""

    TURNS = "both variants in turn"
    ATTACHED = "many controllers in each variant"
    GUEST = "a Linux guest with a drive of each variant"


@dataclass(frozen=True)
class Setup:
    """A group of cases: the two chains that it compares, and how. `needs` is what scripts/bench.sh has to prepare for it."""

    name: str
    summary: str
    stock: Chain
    courier: Chain
    way: Way = Way.TURNS
    needs: str = ""
    fabric: str = "tcp"


_FRONT_CHAINS = (Chain(Front.STOCK, Back.NULL), Chain(Front.COURIER, Back.NULL))
FRONT = Setup("front", "the front end alone", *_FRONT_CHAINS)
WHOLE = Setup("whole", "the whole way over NVMe/TCP", Chain(Front.STOCK, Back.STOCK), Chain(Front.COURIER, Back.COURIER))
TCP = Setup("tcp", "the back end alone over NVMe/TCP", Chain(Front.STOCK, Back.STOCK), Chain(Front.STOCK, Back.COURIER))
ATTACHED = Setup("attached", "128 controllers in one process, each attached, all but one idle", *_FRONT_CHAINS, Way.ATTACHED)
GUEST = Setup("guest", "fio in a Linux guest with a drive of each", *_FRONT_CHAINS, Way.GUEST, "guest")
# In an emulated machine of its own.
RDMA = Setup("rdma", "the whole way over NVMe/RDMA", Chain(Front.STOCK, Back.STOCK), Chain(Front.COURIER, Back.COURIER),
             needs="rdma", fabric="rdma")
SETUPS = (FRONT, WHOLE, TCP, ATTACHED, GUEST, RDMA)


@dataclass(frozen=True)
class Case:
    """A load on the drive, and what is to come of it."""

    setup: Setup
    name: str
    summary: str
    workload: str
    io_size: int
    queue_depth: int
    default: bool = True
    goals: dict[str, Goal] = field(default_factory=dict)
    figures: tuple[Figure, ...] = (IOPS, LATENCY, CYCLES)
    queues: int = 1
    bare: bool = False


def _random_reads(setup, queue_depth, default=True, **goals):
    return Case(setup, f"{setup.name}-qd{queue_depth}", f"4 KiB random reads, queue depth {queue_depth}", "randread", 4096,
                queue_depth, default, goals)


def _guest_reads(queue_depth, queues, **goals):
    name = f"guest-qd{queue_depth}" + (f"-{queues}q" if queues > 1 else "")
    where = "one queue" if queues == 1 else f"each of {queues} queues"
    return Case(GUEST, name, f"4 KiB random reads, queue depth {queue_depth} on {where}", "randread", 4096,
                queue_depth, False, goals, (IOPS, LATENCY, INTERRUPTS, CYCLES), queues)


def _at_least(ratio):
    return Goal(True, ratio)


def _at_most(ratio):
    return Goal(False, ratio)


# Those of one setup in one piece: they share their processes.
CASES = (
    _random_reads(FRONT, 1, latency_us=_at_most(0.95)),
    _random_reads(FRONT, 32, cycles_per_io=_at_most(0.70)),
    _random_reads(FRONT, 128, cycles_per_io=_at_most(0.70)),
    Case(WHOLE, "whole-qd1", "4 KiB random reads, queue depth 1", "randread", 4096, 1,
         goals={"added_us": _at_most(0.50)}, figures=(IOPS, LATENCY, ADDED, CYCLES), bare=True),
    _random_reads(WHOLE, 32, iops=_at_least(1.20), cycles_per_io=_at_most(0.80)),
    _random_reads(WHOLE, 128, iops=_at_least(1.20), cycles_per_io=_at_most(0.80)),
    _random_reads(TCP, 1, default=False),
    _random_reads(TCP, 32, default=False, iops=_at_least(1.00)),
    _random_reads(TCP, 128, default=False, iops=_at_least(1.00)),
    Case(TCP, "tcp-write-qd32", "4 KiB random writes, queue depth 32", "randwrite", 4096, 32, default=False),
    Case(TCP, "tcp-128k-qd8", "128 KiB random reads, queue depth 8", "randread", 131072, 8, default=False),
    Case(ATTACHED, "attached-qd32", "4 KiB random reads, queue depth 32, on one among 128 and on one alone", "randread", 4096, 32,
         goals={"kept": Goal(True, 0.97, own=True)}, figures=(KEPT, CYCLES, ALONE_CYCLES)),
    Case(ATTACHED, "memory", "memory for each attached idle controller: (with 128 - with 1) / 127", "none", 0, 0,
         goals={"rss_kib": Goal(False, 80, own=True)}, figures=(RESIDENT, HEAP)),
    _guest_reads(1, 1, iops=_at_least(1.00)),
    _guest_reads(32, 1, iops=_at_least(1.00), interrupts_per_io=_at_most(1.00)),
    _guest_reads(1, 4, iops=_at_least(1.00)),
    _guest_reads(32, 4, iops=_at_least(1.00), interrupts_per_io=_at_most(1.00)),
    _random_reads(RDMA, 32, default=False, cycles_per_io=_at_most(0.95)),
)


def by_name(name):
    """The case of that name, or None."""
    return next((case for case in CASES if case.name == name), None)


def over(fabric):
    """The cases that are measured where pools over this fabric are."""
    return [case for case in CASES if case.setup.fabric == fabric]


def chosen(names, groups=()):
    """The cases that are meant by these names of cases and setups, or the default ones if there is no name; and `groups`."""
    def wanted(case):
        picked = case.name in names or case.setup.name in names if names else case.default
        return picked or case.setup.name in groups
    return [case for case in CASES if wanted(case)]


def by_setup(cases):
    """Those cases as a list per setup, in the order of the setups."""
    groups = ((setup, [case for case in cases if case.setup is setup]) for setup in SETUPS)
    return [(setup, group) for setup, group in groups if group]
