"""Process A: the VM's stand-in, and the storage pool where a case needs one."""

import os
import signal
import socket

from .process import MeasurementFailed, SpdkProcess
from .rpc import RpcError
from .server import Export, export, null_bdevs

POOL_NQN = "nqn.2024-01.io.courier:bench-pool"
# Soft-RoCE has fewer queues than it says, and its machine little memory.
TRANSPORT_OPTIONS = {"rdma": {"num_shared_buffers": 511, "buf_cache_size": 32, "max_io_qpairs_per_ctrlr": 8}}
VM_CONTROLLER = "VM"
VM_BDEV = VM_CONTROLLER + "n1"
# How often process A looks whether its controllers have something to say. With SPDK's 10 ms, the looking for a
# hundred idle drives would be taken for the cost of having them.
ADMIN_POLL_US = 30_000


class Host:
    """A process A. It is suspended except while it is used: the other one needs the core."""

    def __init__(self, name, program, workdir, core, memory):
        """Starts the process."""
        self._pools = {}
        # -g: one memory file, which the vfio-user client can pass to B as a whole.
        self.process = SpdkProcess(name, program, workdir, core, memory, ["-z", "-g", "-T", VM_BDEV])
        self.process.call("bdev_nvme_set_options", {"nvme_adminq_poll_period_us": ADMIN_POLL_US})
        self.version = self.process.call("spdk_get_version")["version"]
        self.suspend()

    def suspend(self):
        """Takes the process off its core."""
        self.process.signal(signal.SIGSTOP)

    def resume(self):
        """Lets the process run."""
        self.process.signal(signal.SIGCONT)

    def pool_over(self, fabric):
        """How to connect to the pool, which is exported with the first call. The process must run."""
        if fabric not in self._pools:
            address = {"traddr": _address(fabric), "adrfam": "ipv4", "trsvcid": str(_free_port())}
            self.process.call("nvmf_create_transport", {"trtype": fabric.upper()} | TRANSPORT_OPTIONS.get(fabric, {}))
            (bdev,) = null_bdevs(self.process, ["Store"])
            export(self.process, [Export(POOL_NQN, "BENCH", bdev, {"trtype": fabric.upper()} | address)])
            self._pools[fabric] = {"name": "pool", "trtype": fabric, "subnqn": POOL_NQN} | address
        return self._pools[fabric]

    def attach(self, server, numbers):
        """Attaches drives of a server, drive 0 to the VM's stand-in and the others to nobody, and waits until they have been looked
        at, such as for partitions. Both processes must run.
        """
        names = [_controller(number) for number in numbers]
        found = self.process.call_all("bdev_nvme_attach_controller", [
            {"name": name, "trtype": "VFIOUSER", "traddr": server.socket_dir(number)} for name, number in zip(names, numbers)])
        if found != [[f"{name}n1"] for name in names]:
            raise MeasurementFailed(f"the VM's stand-in found no namespace on a drive. {server.process.log_tail()}")
        self.process.call("bdev_wait_for_examine")

    def detach(self, numbers):
        """Detaches them."""
        self.process.call_all("bdev_nvme_detach_controller", [{"name": _controller(number)} for number in numbers])

    def begin(self, case, seconds):
        """Starts the case's load on the VM's stand-in. A function comes back that waits for its end, at most so many seconds."""
        ended = self.process.begin("perform_tests", {
            "workload_type": case.workload, "io_size": str(case.io_size), "queue_depth": case.queue_depth, "time_in_sec": seconds})

        def wait(timeout):
            try:
                (job,) = ended(timeout)["results"]
            except RpcError as error:
                raise MeasurementFailed(f"{case.name}: {error}; the log of process A is {self.process.log}") from None
            if job["status"] != "finished" or job["io_failed"] or not job["iops"]:
                raise MeasurementFailed(f"{case.name}: the load {job['status']} with {job['io_failed']} failed I/Os "
                                        f"at {job['iops']:.0f} IOPS; the log of process A is {self.process.log}")
        return wait

    def counters(self):
        """What the stand-in has done so far."""
        return self.process.io_counters(VM_BDEV)


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
