"""fio in a Linux guest that has a drive of each variant, which run in turn; the guest is new for every pair."""

import dataclasses
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess

from . import windows
from .machine import Children
from .process import MeasurementFailed, die_with_parent

SCRIPTS = pathlib.Path(__file__).resolve().parents[3] / "scripts"
# Starting and ending fio in an emulated guest.
FIO_OVERHEAD_S = 6.0
# Two that are started at once do not begin at once.
FIO_APART_S = 3
CPUS = 4
BOOT_S = 300
STOP_S = 20


class Guest:
    """Measures fio's jobs on both drives. Process A is not needed and stays suspended; the guest has its core."""

    # Two servers, a boot, and a warm-up.
    PAIR_OVERHEAD_S = 45.0

    def __init__(self, runtime):
        self._runtime = runtime

    def seconds(self, case):
        """How long a pair of a case takes."""
        return windows.expected_s(2, case, self._runtime) + FIO_APART_S + FIO_OVERHEAD_S

    def measure_pair(self, rig, setup, cases, order, watch):
        """Yields every case with a sample for each variant."""
        servers = {variant: rig.start(variant, setup).server for variant in order}
        for server in servers.values():
            server.resume()  # while the guest boots, both are there
        with Machine(rig, [server.socket_dir() for server in servers.values()]) as machine:
            drives = {variant: Drive(machine, server) for variant, server in servers.items()}
            for server in servers.values():
                server.suspend()
            rig.measure(drives, cases[0], windows.WARM_UP_S)
            for case in cases:
                yield case, watch.undisturbed(case, lambda case=case: self._measure_case(rig, drives, case))
            for server in servers.values():
                server.resume()  # a guest that ends talks to both
        rig.stop_servers()

    def _measure_case(self, rig, drives, case):
        samples = rig.measure(drives, case, self._runtime)
        return {variant: sample | {"interrupts_per_io": drives[variant].interrupts_per_io} for variant, sample in samples.items()}


class Drive:
    """A server's drive in the guest, as a side that can be measured. While its server is suspended, fio waits for it and takes no time."""

    def __init__(self, machine, server):
        self.host = self
        self.server = server
        self.interrupts_per_io = None
        self._machine = machine
        self._slots = 0

    def suspend(self):
        """Takes the server off its core."""
        self.server.suspend()

    def resume(self):
        """Lets it run."""
        self.server.resume()

    def processes(self):
        """The server and the guest, which is that of every drive."""
        return self.server.process, self._machine, self._machine.children

    def begin(self, case, seconds):
        """Starts the case's fio job. A function comes back that waits for its end, at most so many seconds."""
        self._slots = case.queue_depth * case.queues
        end = self._machine.begin_fio(self.server, case, seconds + FIO_APART_S)

        def wait(timeout):
            self.interrupts_per_io = end(timeout)
        return wait

    def counters(self):
        """What the server's bdev has done so far. Seen from the guest, fio always waits for as many I/Os as it keeps in flight."""
        counters = self.server.null_counters()
        return dataclasses.replace(counters, waited_s=counters.seconds * self._slots)


class Machine:
    """A virtual machine (scripts/vm.sh) that runs on every core but that of process B."""

    def __init__(self, rig, socket_dirs):
        """Boots it."""
        self.children = Children()
        self._workdir = rig.workdir
        self._folder = os.path.join(rig.workdir, "vm")
        self._log = os.path.join(rig.workdir, "vm.log")
        self._cores = os.sched_getaffinity(0) - {rig.cores[1]}
        argv = [SCRIPTS / "vm.sh", "serve", "--vm", self._folder, "--cpus", str(CPUS), "--timeout", str(BOOT_S)]
        for folder in socket_dirs:
            argv += ["--socket-dir", folder]
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                                             start_new_session=True, preexec_fn=self._prepare)
        try:
            if self._process.stdout.readline() != b"ready\n":
                raise MeasurementFailed(f"the guest did not boot:\n{pathlib.Path(self._log).read_text(errors='replace')}")
            self.pid = int(pathlib.Path(self._folder, "pid").read_text())
        except BaseException:
            self.stop()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def cpu_seconds(self):
        """Processor time of the machine so far."""
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def begin_fio(self, server, case, seconds):
        """Starts the case's fio job on a server's drive. A function comes back that waits for its end, at most so many seconds,
        and tells how many interrupts an I/O took.
        """
        settings = {"SERIAL": server.serial(), "QUEUES": case.queues, "JOB": fio_job(case, seconds)}
        lines = [f"{name}={shlex.quote(str(value))}\n" for name, value in settings.items()]
        script, out = (os.path.join(self._workdir, f"{server.serial()}.{what}") for what in ("script", "out"))
        pathlib.Path(script).write_text("".join(lines) + (SCRIPTS / "guest/fio-bench.sh").read_text())
        argv = [SCRIPTS / "vm.sh", "exec", "--vm", self._folder, "--script", script, "--out", out, "--timeout", str(60 + 10 * seconds)]
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                   errors="replace", preexec_fn=self._prepare)

        def wait(timeout):
            try:
                output, _ = process.communicate(timeout=timeout)
            except BaseException:
                process.kill()
                raise
            if process.returncode:
                raise MeasurementFailed(f"{case.name}: fio failed in the guest with status {process.returncode}:\n{output}")
            return interrupts_per_io(*(pathlib.Path(out, name).read_text() for name in ("fio.json", "controller", "before", "after")))
        return wait

    def stop(self):
        """Ends the machine; vm.sh powers it off."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # and QEMU with it
            self._process.wait()
        self._process.stdout.close()

    def _prepare(self):
        die_with_parent()
        os.sched_setaffinity(0, self._cores)


def fio_job(case, seconds):
    """The text of the case's fio job file, with another running time."""
    path = SCRIPTS / "fio" / f"randread-4k-qd{case.queue_depth}-{case.queues}q.fio"
    return re.sub(r"(?m)^runtime=.*$", f"runtime={seconds}", path.read_text())


def interrupts_per_io(result, controller, before, after):
    """How many interrupts of the controller's I/O queues an I/O took, out of fio's JSON and /proc/interrupts."""
    (job,) = json.loads(result[result.index("{"):])["jobs"]
    ios = job["read"]["total_ios"]
    if job["error"] or not ios:
        raise MeasurementFailed(f"fio in the guest did {ios} I/Os and ended with error {job['error']}")
    return (io_interrupts(after, controller.strip()) - io_interrupts(before, controller.strip())) / ios


def io_interrupts(table, controller):
    """How many interrupts /proc/interrupts counts for a controller's I/O queues, on all processors."""
    header, *rows = table.splitlines()
    cpus = len(header.split())
    queue = re.compile(rf"\b{re.escape(controller)}q[1-9]\d*\b")
    return sum(sum(int(count) for count in row.split()[1:1 + cpus]) for row in rows if queue.search(row))
