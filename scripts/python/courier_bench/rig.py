"""Processes A and B wired up as described in the package, and one slice of load with them."""

import os
import socket
from dataclasses import dataclass

from .machine import Disturbance
from .process import SpdkProcess
from .rpc import RpcError
from .server import Server, export, null_bdev

POOL_NQN = "nqn.2024-01.io.courier:bench-pool"
MEMORY_MIB = 1024
VM_CONTROLLER = "VM"
VM_BDEV = VM_CONTROLLER + "n1"


class MeasurementFailed(Exception):
    """The load ran but not as it should have."""


@dataclass(frozen=True)
class Measurement:
    """What a load yielded. `b_busy` and `others` are shares of one core's time."""

    iops: float
    latency_us: float
    cycles_per_io: float
    b_busy: float
    others: float


class Rig:
    """Process A for the whole bench, and the servers that are started with it."""

    def __init__(self, workdir, bdevperf, cores):
        self._workdir = workdir
        self._b_core = cores[1]
        self._servers = []
        self._started = 0
        self._pools = {}
        # -g: one memory file, which the vfio-user client can pass to B as a whole.
        self._a = SpdkProcess("bdevperf", bdevperf, workdir, cores[0], MEMORY_MIB, ["-z", "-g", "-T", VM_BDEV])

    def spdk_version(self):
        """The version of SPDK that process A runs."""
        return self._a.call("spdk_get_version")["version"]

    def start(self, variant, setup):
        """A fresh, suspended server of this variant and setup. Process A becomes the pool when the first needs one."""
        pool = self._pool_over(setup.fabric) if variant.chain(setup).needs_pool else None
        self._started += 1
        name = f"{variant.name}-{setup.name}-{self._started}"
        server = Server(variant, setup, self._workdir, name, self._b_core, pool)
        self._servers.append(server)
        return server

    def stop_servers(self):
        """Ends every server."""
        while self._servers:
            self._servers.pop().stop()

    def measure(self, server, case, seconds):
        """Attaches the VM's stand-in to the server, runs the case's load, and detaches it again."""
        server.resume()
        found = self._a.call("bdev_nvme_attach_controller", {"name": VM_CONTROLLER, "trtype": "VFIOUSER",
                                                             "traddr": server.socket_dir})
        if VM_BDEV not in found:
            raise MeasurementFailed(f"the VM's stand-in found no namespace on its drive. {server.process.log_tail()}")
        disturbance = Disturbance((self._a, server.process))
        busy_before, idle_before = server.process.busy_and_idle_cycles()
        job = self._load(case, seconds)
        busy_after, idle_after = server.process.busy_and_idle_cycles()
        others = disturbance.share()
        self._a.call("bdev_nvme_detach_controller", {"name": VM_CONTROLLER})
        server.suspend()
        busy, idle = busy_after - busy_before, idle_after - idle_before
        return Measurement(iops=job["iops"], latency_us=job["avg_latency_us"],
                           cycles_per_io=busy / (job["iops"] * job["runtime"]),
                           b_busy=busy / (busy + idle), others=others)

    def close(self):
        """Ends every process."""
        self.stop_servers()
        self._a.stop()

    def _pool_over(self, fabric):
        """How to connect to the pool, which is exported with the first call."""
        if fabric not in self._pools:
            address = {"traddr": _address(fabric), "adrfam": "ipv4", "trsvcid": str(_free_port())}
            export(self._a, POOL_NQN, null_bdev(self._a, "Store"), fabric.upper(), address)
            self._pools[fabric] = {"name": "pool", "trtype": fabric, "subnqn": POOL_NQN} | address
        return self._pools[fabric]

    def _load(self, case, seconds):
        params = {"workload_type": case.workload, "io_size": str(case.io_size),
                  "queue_depth": case.queue_depth, "time_in_sec": seconds}
        try:
            (job,) = self._a.call("perform_tests", params, timeout=seconds + 60.0)["results"]
        except RpcError as error:
            raise MeasurementFailed(f"{case.name}: {error}; the log of process A is {self._a.log}") from None
        if job["status"] != "finished" or job["io_failed"] or not job["iops"]:
            raise MeasurementFailed(f"{case.name}: the load {job['status']} with {job['io_failed']} failed I/Os "
                                    f"at {job['iops']:.0f} IOPS; the logs are in {self._workdir}")
        return job


def _address(fabric):
    if fabric == "tcp":
        return "127.0.0.1"
    try:
        return os.environ["RDMA_ADDRESS"]
    except KeyError:
        raise MeasurementFailed("RDMA_ADDRESS is not set: is this the machine of scripts/rdma-vm.sh?") from None


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
