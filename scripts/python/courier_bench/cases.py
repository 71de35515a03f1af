"""What is measured: cases, figures, and the goals set for them."""

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


@dataclass(frozen=True)
class Case:
    """A load that the VM's stand-in puts on its drive."""

    name: str
    summary: str
    workload: str
    io_size: int
    queue_depth: int
    default: bool = True
    goals: dict[str, Goal] = field(default_factory=dict)


CASES = (
    Case("tcp-qd1", "4 KiB random reads, queue depth 1", "randread", 4096, 1),
    Case("tcp-qd32", "4 KiB random reads, queue depth 32", "randread", 4096, 32, goals={"iops": Goal(True, 1.00)}),
    Case("tcp-qd128", "4 KiB random reads, queue depth 128", "randread", 4096, 128, goals={"iops": Goal(True, 1.00)}),
    Case("tcp-write-qd32", "4 KiB random writes, queue depth 32", "randwrite", 4096, 32, default=False),
    Case("tcp-128k-qd8", "128 KiB random reads, queue depth 8", "randread", 131072, 8, default=False),
)


def by_name(name):
    """The case of that name, or None."""
    return next((case for case in CASES if case.name == name), None)
