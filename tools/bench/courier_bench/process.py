"""One SPDK process: started with a log file and an RPC socket of its own, stopped, and cleaned up after."""

import ctypes
import glob
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass

from .rpc import RpcClient

START_TIMEOUT = 60.0
STOP_TIMEOUT = 15.0
LOG_LINES = 15
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


# What SPDK's applications set aside for many users, made small: there is one. iSCSI is not in all of them.
SMALL_POOLS = pathlib.Path(__file__).resolve().parents[3] / "scripts" / "small-pools.json"


class ProcessFailed(Exception):
    """The process did not start, has gone, or does not answer. The message ends with the tail of its log."""


class MeasurementFailed(Exception):
    """The processes are there, but what was to be measured did not go as it should."""


@dataclass(frozen=True)
class Memory:
    """How much a process gets, and whether its pools are small."""

    mib: int
    small_pools: bool = False


@dataclass(frozen=True)
class Counters:
    """I/Os that have ended by a moment of the process's clock, and how long they took together."""

    seconds: float
    cycles_per_second: int
    ios: int
    waited_s: float


class SpdkProcess:
    """A running SPDK application."""

    def __init__(self, name, program, workdir, core, memory, options=()):
        """Starts `program` on `core` and waits until it is ready for every RPC."""
        self.name = name
        self.core = core
        self.socket = os.path.join(workdir, f"{name}.sock")
        self.log = os.path.join(workdir, f"{name}.log")
        self._rpc = None
        argv = [program, "-m", f"[{core}]", "-s", str(memory.mib), "-r", self.socket,
                "--no-pci", "--iova-mode", "va", "--disable-cpumask-locks", *options]
        if memory.small_pools:
            argv += ["-c", str(SMALL_POOLS), "--json-ignore-init-errors"]
        with open(self.log, "wb") as log:
            # A session of its own: Ctrl-C is for the bench, which then stops its processes in order.
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=workdir,
                                             start_new_session=True, preexec_fn=die_with_parent)
        self.pid = self._process.pid
        try:
            self._connect()
            self.call("framework_wait_init", timeout=START_TIMEOUT)
        except BaseException:
            self.stop()
            raise

    def call(self, method, params=None, timeout=30.0):
        """Calls an RPC method. Raises RpcError for its error, ProcessFailed when no answer comes."""
        (result,) = self.call_all(method, [params], timeout)
        return result

    def call_all(self, method, params, timeout=30.0):
        """Calls it once with each of `params`, without waiting in between; the results in the same order."""
        return self._answered(method, timeout, lambda: self._rpc.call_all(method, params, timeout))

    def begin(self, method, params):
        """Calls an RPC method, on a connection of its own. A function comes back that waits for the result, at most so many seconds,
        and raises as `call`.
        """
        client = RpcClient(self.socket)
        sent = client.send(method, [params])

        def result(timeout):
            try:
                (answer,) = self._answered(method, timeout, lambda: client.results(method, sent, timeout))
            finally:
                client.close()
            return answer
        return result

    def busy_and_idle_cycles(self):
        """Cycles that the reactor has spent so far in pollers that had work, and in those that had none."""
        reactors = self.call("framework_get_reactors")["reactors"]
        reactor = next(reactor for reactor in reactors if reactor["lcore"] == self.core)
        return reactor["busy"], reactor["idle"]

    def cpu_seconds(self):
        """Processor time of all its threads so far."""
        with open(f"/proc/{self.pid}/stat", encoding="ascii", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self):
        """What Linux calls its resident memory (VmRSS). Hugepages are not in it."""
        with open(f"/proc/{self.pid}/status", encoding="ascii", errors="replace") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))

    def heap_bytes(self):
        """What is allocated of DPDK's heap, which is in hugepages. SPDK writes its answer to a file that it names."""
        path = self.call("env_dpdk_get_mem_stats")["filename"]
        with open(path, encoding="ascii", errors="replace") as dump:
            sizes = re.findall(r"Alloc_size:(\d+)", dump.read())
        os.unlink(path)
        return sum(int(size) for size in sizes)

    def io_counters(self, name):
        """What a bdev has done so far."""
        stat = self.call("bdev_get_iostat", {"name": name})
        (bdev,), rate = stat["bdevs"], stat["tick_rate"]
        return Counters(stat["ticks"] / rate, rate, bdev["num_read_ops"] + bdev["num_write_ops"],
                        (bdev["read_latency_ticks"] + bdev["write_latency_ticks"]) / rate)

    def log_tail(self):
        """The end of the process's log, with a sentence that says so."""
        with open(self.log, encoding="utf-8", errors="replace") as log:
            tail = "".join("    " + line for line in log.readlines()[-LOG_LINES:])
        return f"The end of {self.log}:\n{tail.rstrip()}"

    def signal(self, number):
        """Sends the process a signal."""
        self._process.send_signal(number)

    def stop(self):
        """Ends the process and removes what it leaves when it has to be killed. May be called twice."""
        if self._rpc:
            self._rpc.close()
            self._rpc = None
        if self._process.poll() is None:
            self.signal(signal.SIGTERM)
            self.signal(signal.SIGCONT)  # a suspended process would not see the other signal
            try:
                self._process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        _remove_leftovers(self.pid)

    def _connect(self):
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                self._rpc = RpcClient(self.socket)
                return
            except OSError:
                if self._process.poll() is not None:
                    raise self._failed("did not start") from None
                if time.monotonic() > deadline:
                    raise self._failed(f"opened no RPC socket within {START_TIMEOUT:.0f} s") from None
                time.sleep(0.02)

    def _answered(self, method, timeout, call):
        try:
            return call()
        except TimeoutError:
            raise self._failed(f"gave no answer to {method} within {timeout:.0f} s") from None
        except OSError as error:
            raise self._failed(f"went away during {method} ({error})") from None

    def _failed(self, what):
        try:
            status = self._process.wait(1.0)
            what += f"; killed by signal {-status}" if status < 0 else f"; exit status {status}"
        except subprocess.TimeoutExpired:
            what += "; it still runs"
        return ProcessFailed(f"{self.name} {what}. {self.log_tail()}")


def die_with_parent():
    """In the child: be killed with the bench, even if that is killed in a way that it cannot handle."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _remove_leftovers(pid):
    """DPDK names its files after the process; the pages of a file that stays are lost to everybody else."""
    with open("/proc/mounts", encoding="utf-8") as mounts:
        huge = [line.split()[1] for line in mounts if line.split()[2] == "hugetlbfs"]
    for folder in huge:
        for path in glob.glob(os.path.join(folder, f"spdk_pid{pid}map_*")):
            os.unlink(path)
    for path in glob.glob(f"/dev/shm/*_trace.pid{pid}"):
        os.unlink(path)
    shutil.rmtree(f"/var/run/dpdk/spdk_pid{pid}", ignore_errors=True)
