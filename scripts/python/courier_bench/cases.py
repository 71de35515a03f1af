"""What is measured: what process B runs, the loads on it, figures, and the goals set for them."""

import enum
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Figure:
    """One number that every measurement yields."""

    key: str
    title: str
    decimals: int
    higher_is_better: bool


FIGURES = (
    Figure("iops", "IOPS", 0, True),
    Figure("latency_us", "mean latency, µs", 2, False),
    Figure("cycles_per_io", "cycles per I/O on B", 0, False),
)


@dataclass(frozen=True)
class Goal:
    """What the ratio of a figure, Courier to stock, must be: at least or at most `ratio`."""

    at_least: bool
    ratio: float

    def met_by(self, ratio):
        """Whether a measured ratio meets the goal."""
        return ratio >= self.ratio if self.at_least else ratio <= self.ratio

    def __str__(self):
        return f"{'>=' if self.at_least else '<='}{self.ratio:.2f}"


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


@dataclass(frozen=True)
class Setup:
    """The two chains that a group of cases compares."""

    name: str
    summary: str
    stock: Chain
    courier: Chain
    fabric: str = "tcp"
    """What the pool speaks. RDMA is measured in a machine of its own."""


FRONT = Setup("front", "the front end alone", Chain(Front.STOCK, Back.NULL), Chain(Front.COURIER, Back.NULL))
WHOLE = Setup("whole", "the whole way over NVMe/TCP", Chain(Front.STOCK, Back.STOCK), Chain(Front.COURIER, Back.COURIER))
TCP = Setup("tcp", "the back end alone over NVMe/TCP", Chain(Front.STOCK, Back.STOCK), Chain(Front.STOCK, Back.COURIER))
RDMA = Setup("rdma", "the whole way over NVMe/RDMA", Chain(Front.STOCK, Back.STOCK), Chain(Front.COURIER, Back.COURIER),
             fabric="rdma")
SETUPS = (FRONT, WHOLE, TCP, RDMA)


@dataclass(frozen=True)
class Case:
    """A load that the VM's stand-in puts on its drive."""

    setup: Setup
    load: str
    summary: str
    workload: str
    io_size: int
    queue_depth: int
    default: bool = True
    goals: dict[str, Goal] = field(default_factory=dict)

    @property
    def name(self):
        """What the case is called on the command line and in the results."""
        return f"{self.setup.name}-{self.load}"


def _random_reads(setup, queue_depth, default=True, **goals):
    return Case(setup, f"qd{queue_depth}", f"4 KiB random reads, queue depth {queue_depth}", "randread", 4096, queue_depth,
                default, goals)


NOT_SLOWER = Goal(False, 1.00)
LESS = Goal(False, 0.95)
NOT_LESS = Goal(True, 1.00)

# Those of one setup in one piece: they share their processes.
CASES = (
    _random_reads(FRONT, 1, latency_us=NOT_SLOWER),
    _random_reads(FRONT, 32, cycles_per_io=NOT_SLOWER),
    _random_reads(FRONT, 128, cycles_per_io=NOT_SLOWER),
    _random_reads(WHOLE, 1),
    _random_reads(WHOLE, 32, iops=NOT_LESS),
    _random_reads(WHOLE, 128, iops=NOT_LESS),
    _random_reads(TCP, 1, default=False),
    _random_reads(TCP, 32, default=False, iops=NOT_LESS),
    _random_reads(TCP, 128, default=False, iops=NOT_LESS),
    Case(TCP, "write-qd32", "4 KiB random writes, queue depth 32", "randwrite", 4096, 32, default=False),
    Case(TCP, "128k-qd8", "128 KiB random reads, queue depth 8", "randread", 131072, 8, default=False),
    _random_reads(RDMA, 32, default=False, cycles_per_io=LESS),
)


def by_name(name):
    """The case of that name, or None."""
    return next((case for case in CASES if case.name == name), None)


def over(fabric):
    """The cases that are measured where pools over this fabric are."""
    return [case for case in CASES if case.setup.fabric == fabric]


def chosen(names):
    """The cases that are meant by these names of cases and setups; the default ones if there is no name."""
    if not names:
        return [case for case in CASES if case.default]
    return [case for case in CASES if case.name in names or case.setup.name in names]


def by_setup(cases):
    """Those cases as a list per setup, in the order of the setups."""
    groups = ((setup, [case for case in cases if case.setup is setup]) for setup in SETUPS)
    return [(setup, group) for setup, group in groups if group]
