"""What machine this is, and how much of it others used during a measurement."""

import os
import platform
import time


def describe(cores, spdk_version):
    """The machine in words, for the report."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "bench_cores": list(cores),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "spdk": spdk_version,
        "virtual": _flag("hypervisor"),
    }


class Children:
    """Processes that the bench has started and waited for, with theirs."""

    @staticmethod
    def cpu_seconds():
        """Processor time of all of them so far."""
        times = os.times()
        return times.children_user + times.children_system


class Itself:
    """The bench's own process, which looks at counters."""

    @staticmethod
    def cpu_seconds():
        """Processor time that it used so far."""
        return time.process_time()


class Disturbance:
    """Measures what others took of the machine while the bench's processes ran.

    The two reactors poll, so their cores are always full: any other process, and the hypervisor's
    other guests, take their time from the measurement.
    """

    def __init__(self, processes):
        self._processes = processes
        self._start = self._sample()

    def share(self):
        """Time that others used since the start, as a share of one core."""
        wall, used, stolen, own = (now - then for now, then in zip(self._sample(), self._start))
        return max(0.0, used - own + stolen) / wall

    def _sample(self):
        user, nice, system, _idle, _iowait, _irq, _softirq, steal = _cpu_ticks()
        tick = os.sysconf("SC_CLK_TCK")
        own = sum(process.cpu_seconds() for process in self._processes)
        return time.monotonic(), (user + nice + system) / tick, steal / tick, own


def _cpu_ticks():
    with open("/proc/stat", encoding="ascii") as stat:
        return [int(field) for field in stat.readline().split()[1:9]]


def _cpu_model():
    return _cpuinfo("model name") or platform.machine()


def _flag(flag):
    return flag in (_cpuinfo("flags") or "").split()


def _cpuinfo(key):
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        for line in info:
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return None
