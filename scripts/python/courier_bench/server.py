"""Process B: the intermediary under test, in the chain that a case asks for."""

import os
import signal
import uuid
from dataclasses import dataclass

from .cases import Back, Front
from .process import SpdkProcess

DRIVE_NQN = "nqn.2024-01.io.courier:bench-drive"
BLOCK_SIZE = 4096
NUM_BLOCKS = 1 << 20
MEMORY_MIB = 1024
# Soft-RoCE has fewer queues than it says, and its machine little memory.
TRANSPORT_OPTIONS = {"RDMA": {"num_shared_buffers": 511, "buf_cache_size": 32, "max_io_qpairs_per_ctrlr": 8}}
# Towards the pool. A suspended initiator sends no keep-alive; it is never suspended for so long.
KEEP_ALIVE_MS = 60_000


@dataclass(frozen=True)
class Variant:
    """One side of the comparison: a program, and whether it runs a setup's chain of stock or that of Courier."""

    name: str
    program: str
    courier: bool

    def chain(self, setup):
        """What process B runs of this setup."""
        return setup.courier if self.courier else setup.stock


class Server:
    """Process B. It is suspended except while it is measured, so that two of them can share a core.

    The VM's stand-in is attached while it is measured only: a suspended drive would answer neither its keep-alive
    nor its commands.
    """

    def __init__(self, variant, setup, workdir, name, core, pool):
        """Starts the process, gives it a disk and puts that on a vfio-user socket as a drive."""
        self.socket_dir = os.path.join(workdir, f"{name}.vfio")
        os.mkdir(self.socket_dir)
        self.process = SpdkProcess(name, variant.program, workdir, core, MEMORY_MIB)
        try:
            chain = variant.chain(setup)
            bdev = _BACK_ENDS[chain.back](self.process, pool)
            _FRONT_ENDS[chain.front](self.process, bdev, self.socket_dir)
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


def export(process, nqn, bdev, transport, listener):
    """Makes a subsystem of SPDK's target with `bdev` as namespace 1, under identifiers of its own.

    The pool's bdev and the drive's namespace both end up in process A, which refuses to know two bdevs by one UUID.
    """
    identity = uuid.uuid4()
    process.call("nvmf_create_transport", {"trtype": transport} | TRANSPORT_OPTIONS.get(transport, {}))
    process.call("nvmf_create_subsystem", {"nqn": nqn, "allow_any_host": True, "serial_number": "BENCH"})
    process.call("nvmf_subsystem_add_ns", {"nqn": nqn, "namespace": {
        "bdev_name": bdev, "nsid": 1, "uuid": str(identity), "nguid": identity.hex.upper()}})
    process.call("nvmf_subsystem_add_listener", {"nqn": nqn, "listen_address": {"trtype": transport} | listener})


def null_bdev(process, name):
    """Makes a bdev that has no data and takes no time."""
    return process.call("bdev_null_create", {"name": name, "uuid": str(uuid.uuid4()),
                                             "block_size": BLOCK_SIZE, "num_blocks": NUM_BLOCKS})


def _null_back(process, _pool):
    return null_bdev(process, "disk")


def _stock_back(process, pool):
    process.call("bdev_nvme_set_options", {"keep_alive_timeout_ms": KEEP_ALIVE_MS})
    return process.call("bdev_nvme_attach_controller", pool)[0]


def _courier_back(process, pool):
    process.call("courier_pool_create", pool | {"keep_alive_timeout_ms": KEEP_ALIVE_MS})
    return process.call("bdev_courier_create", {"name": "disk", "pool": pool["name"], "nsid": 1})


def _stock_front(process, bdev, socket_dir):
    export(process, DRIVE_NQN, bdev, "VFIOUSER", {"traddr": socket_dir})


def _courier_front(process, bdev, socket_dir):
    process.call("courier_controller_create", {"name": "drive", "traddr": socket_dir})
    process.call("courier_controller_add_ns", {"name": "drive", "bdev_name": bdev})


_BACK_ENDS = {Back.NULL: _null_back, Back.STOCK: _stock_back, Back.COURIER: _courier_back}
_FRONT_ENDS = {Front.STOCK: _stock_front, Front.COURIER: _courier_front}
