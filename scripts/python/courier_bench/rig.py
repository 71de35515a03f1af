"""Processes A and B wired up as described in the package, and the pieces that measurements are made of."""

import contextlib
import os
import re
import signal
import socket
import subprocess

from .machine import Children, Disturbance
from .process import SpdkProcess, die_with_parent
from .rpc import RpcError
from .server import Export, Server, export, null_bdevs

POOL_NQN = "nqn.2024-01.io.courier:bench-pool"
BARE_MEMORY_MIB = 256
# Soft-RoCE has fewer queues than it says, and its machine little memory.
TRANSPORT_OPTIONS = {"rdma": {"num_shared_buffers": 511, "buf_cache_size": 32, "max_io_qpairs_per_ctrlr": 8}}
VM_CONTROLLER = "VM"
VM_BDEV = VM_CONTROLLER + "n1"
# How often process A looks whether its controllers have something to say. With SPDK's 10 ms, the looking for a
# hundred idle drives would be taken for the cost of having them.
ADMIN_POLL_US = 100_000


class MeasurementFailed(Exception):
    """The load ran but not as it should have."""


class Rig:
    """Process A for the whole bench, and the servers that are started with it."""

    def __init__(self, workdir, tools, cores, memory, profiler=None):
        """`tools` names the program of each of SPDK's tools: bdevperf, spdk_nvme_perf. `memory` is what every process has, and `profiler`
        looks on at every load.
        """
        self.workdir = workdir
        self._memory = memory
        self.cores = cores
        self._tools = tools
        self._profiler = profiler
        self._servers = []
        self._started = 0
        self._pools = {}
        # -g: one memory file, which the vfio-user client can pass to B as a whole.
        self._a = SpdkProcess("bdevperf", tools["bdevperf"], workdir, cores[0], memory, ["-z", "-g", "-T", VM_BDEV])
        self._a.call("bdev_nvme_set_options", {"nvme_adminq_poll_period_us": ADMIN_POLL_US})

    def spdk_version(self):
        """The version of SPDK that process A runs."""
        return self._a.call("spdk_get_version")["version"]

    def start(self, variant, setup):
        """A fresh, suspended server of this variant and setup. Process A becomes the pool when the first needs one."""
        pool = self._pool_over(setup.fabric) if variant.chain(setup).needs_pool else None
        self._started += 1
        name = f"{variant.name}-{setup.name}-{self._started}"
        server = Server(variant, setup, self.workdir, name, self.cores[1], self._memory, pool)
        self._servers.append(server)
        return server

    def stop_servers(self):
        """Ends every server."""
        while self._servers:
            self._servers.pop().stop()

    def suspend_a(self):
        """Takes process A off its core, for measurements that do not need it."""
        self._a.signal(signal.SIGSTOP)

    def resume_a(self):
        """Lets process A run again."""
        self._a.signal(signal.SIGCONT)
        self._a.call("spdk_get_version")

    def measure(self, server, case, seconds):
        """Attaches the VM's stand-in to the server, runs the case's load, and detaches it again."""
        server.resume()
        self.attach(server, [0])
        measured = self.load(server, case, seconds)
        self.detach([0])
        server.suspend()
        return measured

    def attach(self, server, numbers):
        """Attaches drives to process A: drive 0 to the VM's stand-in, the others to nobody."""
        names = [_controller(number) for number in numbers]
        found = self._a.call_all("bdev_nvme_attach_controller", [
            {"name": name, "trtype": "VFIOUSER", "traddr": server.socket_dir(number)} for name, number in zip(names, numbers)])
        if found != [[f"{name}n1"] for name in names]:
            raise MeasurementFailed(f"the VM's stand-in found no namespace on a drive. {server.process.log_tail()}")

    def detach(self, numbers):
        """Detaches them."""
        self._a.call_all("bdev_nvme_detach_controller", [{"name": _controller(number)} for number in numbers])

    def settle(self):
        """Waits until process A has looked at everything that was attached, such as for partitions."""
        self._a.call("bdev_wait_for_examine")

    def load(self, server, case, seconds):
        """Runs the case's load on the VM's stand-in, which is attached to a server that runs."""
        disturbance = Disturbance((self._a, server.process))
        busy_before, idle_before = server.process.busy_and_idle_cycles()
        with self._profiler.sampling(case, server.variant, server.process.pid) if self._profiler else contextlib.nullcontext():
            job = self._perform(case, seconds)
        busy_after, idle_after = server.process.busy_and_idle_cycles()
        busy, idle = busy_after - busy_before, idle_after - idle_before
        if self._profiler:
            self._profiler.measured(case, server.variant, job["iops"] * job["runtime"], busy + idle)
        return {"iops": job["iops"], "latency_us": job["avg_latency_us"],
                "cycles_per_io": busy / (job["iops"] * job["runtime"]),
                "b_busy": busy / (busy + idle), "others": disturbance.share()}

    def measure_bare(self, case, seconds):
        """The bare initiator: spdk_nvme_perf on B's core straight to the pool, with no VM and no bdev."""
        pool = self._pool_over("tcp")
        address = f"trtype:TCP adrfam:IPv4 traddr:{pool['traddr']} trsvcid:{pool['trsvcid']} subnqn:{pool['subnqn']}"
        argv = [self._tools["spdk_nvme_perf"], "-c", f"[{self.cores[1]}]", "-s", str(BARE_MEMORY_MIB), "--iova-mode", "va",
                "-r", address, "-q", str(case.queue_depth), "-o", str(case.io_size), "-w", case.workload, "-t", str(seconds)]
        disturbance = Disturbance((self._a, Children()))
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self.workdir,
                              start_new_session=True, preexec_fn=die_with_parent) as process:
            try:
                output, _ = process.communicate(timeout=seconds + 60.0)
            except BaseException:
                process.kill()
                raise
        others = disturbance.share()
        if process.returncode:
            raise MeasurementFailed(f"{case.name}: spdk_nvme_perf failed with status {process.returncode}:\n{output}")
        return {**bare_figures(output), "others": others}

    def close(self):
        """Ends every process."""
        self.stop_servers()
        self._a.stop()

    def _pool_over(self, fabric):
        """How to connect to the pool, which is exported with the first call."""
        if fabric not in self._pools:
            address = {"traddr": _address(fabric), "adrfam": "ipv4", "trsvcid": str(_free_port())}
            self._a.call("nvmf_create_transport", {"trtype": fabric.upper()} | TRANSPORT_OPTIONS.get(fabric, {}))
            (bdev,) = null_bdevs(self._a, ["Store"])
            export(self._a, [Export(POOL_NQN, "BENCH", bdev, {"trtype": fabric.upper()} | address)])
            self._pools[fabric] = {"name": "pool", "trtype": fabric, "subnqn": POOL_NQN} | address
        return self._pools[fabric]

    def _perform(self, case, seconds):
        params = {"workload_type": case.workload, "io_size": str(case.io_size),
                  "queue_depth": case.queue_depth, "time_in_sec": seconds}
        try:
            (job,) = self._a.call("perform_tests", params, timeout=seconds + 60.0)["results"]
        except RpcError as error:
            raise MeasurementFailed(f"{case.name}: {error}; the log of process A is {self._a.log}") from None
        if job["status"] != "finished" or job["io_failed"] or not job["iops"]:
            raise MeasurementFailed(f"{case.name}: the load {job['status']} with {job['io_failed']} failed I/Os "
                                    f"at {job['iops']:.0f} IOPS; the logs are in {self.workdir}")
        return job


def bare_figures(output):
    """IOPS and mean latency from the last line of spdk_nvme_perf's table."""
    total = re.search(r"^Total\s*:\s*([\d.]+)\s+[\d.]+\s+([\d.]+)\s", output, re.MULTILINE)
    if not total:
        raise MeasurementFailed(f"spdk_nvme_perf ended without a result:\n{output}")
    return {"iops": float(total[1]), "latency_us": float(total[2])}


def _address(fabric):
    if fabric == "tcp":
        return "127.0.0.1"
    try:
        return os.environ["RDMA_ADDRESS"]
    except KeyError:
        raise MeasurementFailed("RDMA_ADDRESS is not set: is this the machine of scripts/rdma-vm.sh?") from None


def _controller(number):
    return VM_CONTROLLER if number == 0 else f"Idle{number}"


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
