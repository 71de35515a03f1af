"""fio in a Linux guest that has a drive of each variant, in turn; the guest is new for every pair."""

import json
import os
import pathlib
import re
import shlex
import signal
import subprocess

from .machine import Children, Disturbance
from .process import MeasurementFailed, die_with_parent
from .stats import median_of

SCRIPTS = pathlib.Path(__file__).resolve().parents[2]
# The most seconds of a slice. fio needs a second to start in an emulated guest; they should be few for that.
SLICE_S = 3
SLICE_OVERHEAD_S = 3.0
CPUS = 4
BOOT_S = 300
STOP_S = 20


class Guest:
    """Measures fio's jobs on both drives in turn. Process A is not needed and stays suspended; the guest has its core."""

    # Two servers, a boot, and a warm-up of each drive.
    PAIR_OVERHEAD_S = 45.0

    def __init__(self, runtime):
        self._slice_s = min(runtime, SLICE_S)
        self._turns = max(1, runtime // self._slice_s)

    def seconds(self, _case):
        """How long a pair of a case takes."""
        return self._turns * 2 * (self._slice_s + SLICE_OVERHEAD_S)

    def measure_pair(self, rig, setup, cases, order, watch):
        """Yields every case with a sample for each variant."""
        servers = {variant: rig.start(variant, setup).server for variant in order}
        for server in servers.values():
            server.resume()  # while the guest boots, both are there
        with Machine(rig, [server.socket_dir() for server in servers.values()]) as machine:
            for server in servers.values():
                machine.fio(server, cases[0], 1)  # warms up
            for server in servers.values():
                server.suspend()
            for case in cases:
                yield case, self._measure_case(machine, servers, order, case, watch)
            for server in servers.values():
                server.resume()  # a guest that ends talks to both
        rig.stop_servers()

    def _measure_case(self, machine, servers, order, case, watch):
        slices = {variant: [] for variant in order}
        for turn in range(self._turns):
            sides = order[::-1] if turn % 2 else order
            taken = watch.undisturbed(case, lambda sides=sides: {
                side: machine.measure(servers[side], case, self._slice_s) for side in sides})
            for side, sample in taken.items():
                slices[side].append(sample)
        return {variant: median_of(samples) for variant, samples in slices.items()}


class Machine:
    """A virtual machine (scripts/vm.sh) that runs on every core but that of process B."""

    def __init__(self, rig, socket_dirs):
        """Boots it."""
        self._folder = os.path.join(rig.workdir, "vm")
        self._out = os.path.join(rig.workdir, "vm.out")
        self._log = os.path.join(rig.workdir, "vm.log")
        self._script = os.path.join(rig.workdir, "vm.script")
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

    def measure(self, server, case, seconds):
        """Runs the case's fio job on a server that is suspended before and after."""
        server.resume()
        busy_before, _ = server.process.busy_and_idle_cycles()
        disturbance = Disturbance((self, server.process, Children()))
        sample = self.fio(server, case, seconds)
        others = disturbance.share()
        busy_after, _ = server.process.busy_and_idle_cycles()
        server.suspend()
        ios = sample.pop("ios")
        return sample | {"cycles_per_io": (busy_after - busy_before) / ios, "others": others}

    def fio(self, server, case, seconds):
        """Runs fio on a server's drive; the figures that fio and the guest's kernel tell."""
        settings = {"SERIAL": server.serial(), "QUEUES": case.queues, "JOB": fio_job(case, seconds)}
        lines = [f"{name}={shlex.quote(str(value))}\n" for name, value in settings.items()]
        pathlib.Path(self._script).write_text("".join(lines) + (SCRIPTS / "guest/fio-bench.sh").read_text())
        argv = [SCRIPTS / "vm.sh", "exec", "--vm", self._folder, "--script", self._script, "--out", self._out,
                "--timeout", str(60 + 10 * seconds)]
        ended = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               errors="replace", preexec_fn=self._prepare, check=False)
        if ended.returncode:
            raise MeasurementFailed(f"{case.name}: fio failed in the guest with status {ended.returncode}:\n{ended.stdout}")
        return fio_figures(*(pathlib.Path(self._out, name).read_text() for name in ("fio.json", "controller", "before", "after")))

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


def fio_figures(result, controller, before, after):
    """The figures out of fio's JSON, and the interrupts of the controller's I/O queues out of /proc/interrupts."""
    (job,) = json.loads(result[result.index("{"):])["jobs"]
    read = job["read"]
    if job["error"] or not read["total_ios"]:
        raise MeasurementFailed(f"fio in the guest did {read['total_ios']} I/Os and ended with error {job['error']}")
    interrupts = io_interrupts(after, controller.strip()) - io_interrupts(before, controller.strip())
    return {"iops": read["iops"], "latency_us": read["lat_ns"]["mean"] / 1000, "ios": read["total_ios"],
            "interrupts_per_io": interrupts / read["total_ios"]}


def io_interrupts(table, controller):
    """How many interrupts /proc/interrupts counts for a controller's I/O queues, on all processors."""
    header, *rows = table.splitlines()
    cpus = len(header.split())
    queue = re.compile(rf"\b{re.escape(controller)}q[1-9]\d*\b")
    return sum(sum(int(count) for count in row.split()[1:1 + cpus]) for row in rows if queue.search(row))
