"""The processes, wired up as described in the package: sides that can be measured, and the bare initiator."""

import contextlib
import re
import subprocess

from . import windows
from .host import Host
from .machine import Children, Disturbance
from .process import MeasurementFailed, die_with_parent
from .server import Server

BARE_MEMORY_MIB = 256


class Side:
    """A process B under test, and the process A that has its drives and its pool. Both are suspended except while they are used."""

    def __init__(self, host, server):
        self.host = host
        self.server = server

    def suspend(self):
        """Takes both off their cores."""
        self.host.suspend()
        self.server.suspend()

    def resume(self):
        """Lets both run."""
        self.host.resume()
        self.server.resume()

    @contextlib.contextmanager
    def running(self):
        """Lets both run for what is within."""
        self.resume()
        yield self
        self.suspend()

    def attach(self, numbers):
        """Attaches drives to process A, and waits until it has looked at them, such as for partitions. Both must run."""
        self.host.attach(self.server, numbers)

    def detach(self, numbers):
        """Detaches them. Both must run."""
        self.host.detach(numbers)

    def processes(self):
        """Both processes."""
        return self.host.process, self.server.process


class Rig:
    """Two processes A for the whole bench, the second once there is need of it, and the servers that are started with them."""

    def __init__(self, workdir, tools, cores, memory, profiler=None):
        """`tools` names the program of each of SPDK's tools: bdevperf, spdk_nvme_perf. `memory` is what every process has, and `profiler`
        looks on at every load.
        """
        self.workdir = workdir
        self.cores = cores
        self._profiler = profiler
        self._memory = memory
        self._tools = tools
        self._sides = []
        self._started = 0
        self._hosts = []
        self._host(0)

    def spdk_version(self):
        """The version of SPDK that process A runs."""
        return self._host(0).version

    def start(self, variant, setup, number=0):
        """A fresh server of this variant and setup, with process A `number` of the two; both suspended."""
        host = self._host(number)
        host.resume()
        pool = host.pool_over(setup.fabric) if variant.chain(setup).needs_pool else None
        self._started += 1
        name = f"{variant.name}-{setup.name}-{self._started}"
        server = Server(variant, setup, self.workdir, name, self.cores[1], self._memory, pool)
        host.suspend()
        self._sides.append(Side(host, server))
        return self._sides[-1]

    def stop_servers(self):
        """Ends every server, while its pool answers."""
        while self._sides:
            side = self._sides.pop()
            side.host.resume()
            side.server.stop()
            side.host.suspend()

    def measure(self, sides, case, seconds):
        """Measures these sides, by names, for so many seconds each; a sample for each name."""
        return windows.measure(sides, case, seconds, self._profiler)

    def measure_bare(self, case, seconds):
        """The bare initiator: spdk_nvme_perf on B's core straight to the pool, with no VM and no bdev. Everything else is suspended."""
        host = self._host(0)
        host.resume()
        pool = host.pool_over("tcp")
        address = f"trtype:TCP adrfam:IPv4 traddr:{pool['traddr']} trsvcid:{pool['trsvcid']} subnqn:{pool['subnqn']}"
        argv = [self._tools["spdk_nvme_perf"], "-c", f"[{self.cores[1]}]", "-s", str(BARE_MEMORY_MIB), "--iova-mode", "va",
                "-r", address, "-q", str(case.queue_depth), "-o", str(case.io_size), "-w", case.workload, "-t", str(seconds)]
        disturbance = Disturbance((host.process, Children()))
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self.workdir,
                              start_new_session=True, preexec_fn=die_with_parent) as process:
            try:
                output, _ = process.communicate(timeout=seconds + 60.0)
            except BaseException:
                process.kill()
                raise
        others = disturbance.share()
        host.suspend()
        if process.returncode:
            raise MeasurementFailed(f"{case.name}: spdk_nvme_perf failed with status {process.returncode}:\n{output}")
        return {**bare_figures(output), "others": others}

    def close(self):
        """Ends every process."""
        self.stop_servers()
        for host in self._hosts:
            host.process.stop()

    def _host(self, number):
        while len(self._hosts) <= number:
            name = f"bdevperf-{len(self._hosts)}"
            self._hosts.append(Host(name, self._tools["bdevperf"], self.workdir, self.cores[0], self._memory))
        return self._hosts[number]


def bare_figures(output):
    """IOPS and mean latency from the last line of spdk_nvme_perf's table."""
    total = re.search(r"^Total\s*:\s*([\d.]+)\s+[\d.]+\s+([\d.]+)\s", output, re.MULTILINE)
    if not total:
        raise MeasurementFailed(f"spdk_nvme_perf ended without a result:\n{output}")
    return {"iops": float(total[1]), "latency_us": float(total[2])}
