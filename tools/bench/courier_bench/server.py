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
# Towards the pool. A suspended initiator sends no keep-alive; it is never suspended for so long.
KEEP_ALIVE_MS = 60_000
# An emulated machine takes its time to pin memory; SPDK's half a second is too little.
CONNECT_MS = 20_000


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

    Drive 0 is in the chain of the setup; drives with other numbers are added and removed at will, each a null bdev.
    """

    def __init__(self, variant, setup, workdir, name, core, memory, pool):
        """Starts the process, gives it a disk and puts that on a vfio-user socket as drive 0."""
        self.variant = variant.name
        self._folder = os.path.join(workdir, f"{name}.vfio")
        os.mkdir(self._folder)
        self._front = variant.chain(setup).front
        self.process = SpdkProcess(name, variant.program, workdir, core, memory)
        try:
            if self._front is Front.STOCK:
                self.process.call("nvmf_create_transport", {"trtype": "VFIOUSER"})
            self._add_drives([0], [_BACK_ENDS[variant.chain(setup).back](self.process, pool)])
            self.suspend()
        except BaseException:
            self.stop()
            raise

    def socket_dir(self, number=0):
        """The folder of a drive's socket."""
        return os.path.join(self._folder, str(number))

    def serial(self, number=0):
        """A drive's serial number, by which a guest tells them apart."""
        return f"{self.variant}-{number}"

    def add_drives(self, numbers):
        """More drives, each with a null bdev of its own."""
        self._add_drives(numbers, null_bdevs(self.process, [_null_name(number) for number in numbers]))

    def remove_drives(self, numbers):
        """Takes such drives away."""
        if self._front is Front.STOCK:
            self.process.call_all("nvmf_delete_subsystem", [{"nqn": self._nqn(number)} for number in numbers])
        else:
            self.process.call_all("courier_controller_delete", [{"name": _controller(number)} for number in numbers])
        self.process.call_all("bdev_null_delete", [{"name": _null_name(number)} for number in numbers])

    def memory(self):
        """Bytes of memory in use: the process's own (VmRSS, in which hugepages are not counted), and on DPDK's heap, which
        is in hugepages.
        """
        return self.process.resident_bytes(), self.process.heap_bytes()

    def null_counters(self):
        """What drive 0's bdev has done so far, if that is a null bdev."""
        return self.process.io_counters(_null_name(0))

    def reads(self):
        """How many reads the bdevs of all drives but drive 0 have seen."""
        bdevs = self.process.call("bdev_get_iostat")["bdevs"]
        return sum(bdev["num_read_ops"] for bdev in bdevs if bdev["name"] != _null_name(0))

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

    def _nqn(self, number):
        return f"{DRIVE_NQN}-{self.serial(number)}"

    def _add_drives(self, numbers, bdevs):
        folders = [self.socket_dir(number) for number in numbers]
        if self._front is Front.STOCK:
            for folder in folders:
                os.mkdir(folder)
            export(self.process, [Export(self._nqn(number), self.serial(number), bdev, {"trtype": "VFIOUSER", "traddr": folder})
                                  for number, bdev, folder in zip(numbers, bdevs, folders)])
            return
        self.process.call_all("courier_controller_create", [
            {"name": _controller(number), "traddr": folder, "serial_number": self.serial(number)}
            for number, folder in zip(numbers, folders)])
        self.process.call_all("courier_controller_add_ns", [
            {"name": _controller(number), "bdev_name": bdev} for number, bdev in zip(numbers, bdevs)])


@dataclass(frozen=True)
class Export:
    """A subsystem of SPDK's target with one bdev as namespace 1."""

    nqn: str
    serial: str
    bdev: str
    listener: dict[str, str]


def export(process, exports):
    """Makes these subsystems, their namespaces under identifiers of their own.

    The pool's bdev and the drive's namespace both end up in process A, which refuses to know two bdevs by one UUID.
    """
    identities = [uuid.uuid4() for _ in exports]
    process.call_all("nvmf_create_subsystem", [{"nqn": one.nqn, "allow_any_host": True, "serial_number": one.serial}
                                               for one in exports])
    process.call_all("nvmf_subsystem_add_ns", [
        {"nqn": one.nqn, "namespace": {"bdev_name": one.bdev, "nsid": 1, "uuid": str(identity), "nguid": identity.hex.upper()}}
        for one, identity in zip(exports, identities)])
    process.call_all("nvmf_subsystem_add_listener", [{"nqn": one.nqn, "listen_address": one.listener} for one in exports])


def null_bdevs(process, names):
    """Makes bdevs that have no data and take no time."""
    return process.call_all("bdev_null_create", [{"name": name, "uuid": str(uuid.uuid4()), "block_size": BLOCK_SIZE,
                                                  "num_blocks": NUM_BLOCKS} for name in names])


def _null_name(number):
    return f"null{number}"


def _controller(number):
    return f"drive{number}"


def _null_back(process, _pool):
    return null_bdevs(process, [_null_name(0)])[0]


def _stock_back(process, pool):
    process.call("bdev_nvme_set_options", {"keep_alive_timeout_ms": KEEP_ALIVE_MS, "rdma_cm_event_timeout_ms": CONNECT_MS})
    return process.call("bdev_nvme_attach_controller", pool | {"fabrics_connect_timeout_us": CONNECT_MS * 1000})[0]


def _courier_back(process, pool):
    process.call("bdev_nvme_set_options", {"rdma_cm_event_timeout_ms": CONNECT_MS})
    process.call("courier_pool_create", pool | {"keep_alive_timeout_ms": KEEP_ALIVE_MS, "connect_timeout_ms": CONNECT_MS})
    return process.call("bdev_courier_create", {"name": "disk", "pool": pool["name"], "nsid": 1})


_BACK_ENDS = {Back.NULL: _null_back, Back.STOCK: _stock_back, Back.COURIER: _courier_back}
