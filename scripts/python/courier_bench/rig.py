"""Processes A and B wired up as described in the package, and one slice of load with them."""

import os
import signal
import socket
import uuid
from dataclasses import dataclass

from .machine import Disturbance
from .process import SpdkProcess
from .rpc import RpcError

POOL_NQN = "nqn.2024-01.io.courier:bench-pool"
DRIVE_NQN = "nqn.2024-01.io.courier:bench-drive"
BLOCK_SIZE = 4096
POOL_BLOCKS = 1 << 20
A_MEMORY_MIB = 1024
B_MEMORY_MIB = 1024
VM_CONTROLLER = "VM"
VM_BDEV = VM_CONTROLLER + "n1"
# Towards the pool, for both variants. A suspended initiator sends no keep-alive; it is never suspended for so long.
KEEP_ALIVE_MS = 60_000


class MeasurementFailed(Exception):
    """The load ran but not as it should have."""


@dataclass(frozen=True)
class Variant:
    """An intermediary to measure: which program, and whether Courier's bdev is behind the front end."""

    name: str
    program: str
    courier: bool


@dataclass(frozen=True)
class Measurement:
    """What a load yielded. `b_busy` and `others` are shares of one core's time."""

    iops: float
    latency_us: float
    cycles_per_io: float
    b_busy: float
    others: float


class Server:
    """Process B. It is suspended except while it is measured, so that two of them can share a core."""

    def __init__(self, variant, workdir, name, core, pool):
        """Starts the process, connects it to the pool and puts its drive on a vfio-user socket."""
        self.socket_dir = os.path.join(workdir, f"{name}.vfio")
        os.mkdir(self.socket_dir)
        self.process = SpdkProcess(name, variant.program, workdir, core, B_MEMORY_MIB)
        try:
            disk = self._forwarding_bdev(variant, pool)
            self.process.call("nvmf_create_transport", {"trtype": "VFIOUSER"})
            _export(self.process, DRIVE_NQN, disk, {"trtype": "VFIOUSER", "traddr": self.socket_dir})
            self.suspend()
        except BaseException:
            self.stop()
            raise

    def suspend(self):
        """Takes the process off its core."""
        self.process.signal(signal.SIGSTOP)

    def resume(self):
        """Lets the process run, and waits until the time it was suspended is in its counters, where it belongs
        to no load: a reactor adds up cycles at the end of each round, and the first may have been cut in two.
        """
        self.process.signal(signal.SIGCONT)
        self.process.call("spdk_get_version")

    def stop(self):
        """Ends the process."""
        self.process.stop()

    def _forwarding_bdev(self, variant, pool):
        if not variant.courier:
            self.process.call("bdev_nvme_set_options", {"keep_alive_timeout_ms": KEEP_ALIVE_MS})
            return self.process.call("bdev_nvme_attach_controller", pool)[0]
        self.process.call("courier_pool_create", pool | {"keep_alive_timeout_ms": KEEP_ALIVE_MS})
        self.process.call("bdev_courier_create", {"name": "disk", "pool": pool["name"], "nsid": 1})
        return "disk"


class Rig:
    """Process A for the whole bench, and the servers that are started with it."""

    def __init__(self, workdir, bdevperf, cores):
        self._workdir = workdir
        self._b_core = cores[1]
        self._servers = []
        self._started = 0
        self._pool = {"name": "pool", "trtype": "tcp", "traddr": "127.0.0.1", "adrfam": "ipv4",
                      "trsvcid": str(_free_port()), "subnqn": POOL_NQN}
        # -g: one memory file, which the vfio-user client can pass to B as a whole.
        self._a = SpdkProcess("bdevperf", bdevperf, workdir, cores[0], A_MEMORY_MIB, ["-z", "-g", "-T", VM_BDEV])
        try:
            self._export_pool()
        except BaseException:
            self.close()
            raise

    def spdk_version(self):
        """The version of SPDK that process A runs."""
        return self._a.call("spdk_get_version")["version"]

    def start(self, variant):
        """A fresh, suspended server of this variant."""
        self._started += 1
        server = Server(variant, self._workdir, f"{variant.name}-{self._started}", self._b_core, self._pool)
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
                                                             "traddr": server.socket_dir, "subnqn": DRIVE_NQN})
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

    def _export_pool(self):
        self._a.call("bdev_null_create", {"name": "Store", "uuid": str(uuid.uuid4()),
                                          "block_size": BLOCK_SIZE, "num_blocks": POOL_BLOCKS})
        self._a.call("nvmf_create_transport", {"trtype": "TCP"})
        _export(self._a, POOL_NQN, "Store", {"trtype": "TCP", "adrfam": "IPv4", "traddr": self._pool["traddr"],
                                             "trsvcid": self._pool["trsvcid"]})

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


def _export(process, nqn, bdev, listener):
    """Makes a subsystem with `bdev` as namespace 1, under identifiers of its own.

    The pool's bdev, its exported namespace and the drive's namespace all end up in process A, which
    refuses to know two bdevs by one UUID.
    """
    identity = uuid.uuid4()
    process.call("nvmf_create_subsystem", {"nqn": nqn, "allow_any_host": True, "serial_number": "BENCH"})
    process.call("nvmf_subsystem_add_ns", {"nqn": nqn, "namespace": {
        "bdev_name": bdev, "nsid": 1, "uuid": str(identity), "nguid": identity.hex.upper()}})
    process.call("nvmf_subsystem_add_listener", {"nqn": nqn, "listen_address": listener})


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
