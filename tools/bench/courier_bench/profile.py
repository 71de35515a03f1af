"""Where process B's time goes while it is measured: samples of `perf`, by function and by part."""

import contextlib
import os
import re
import signal
import subprocess
from statistics import median

# Prime numbers, so that no loop runs in step with them. A machine that counts instructions takes many for each sample.
FREQUENCY = 4999
SLOW_FREQUENCY = 997
MOST = 25
COURIER, SPDK, LIBC, KERNEL = "Courier", "SPDK and DPDK", "C library", "kernel"


class ProfileFailed(Exception):
    """perf could not sample or read its samples."""


class Profiler:
    """Samples process B during every load that is measured, by the processor's clock (which every virtual machine has)."""

    def __init__(self, workdir, core=None):
        """With `core`, all that runs on this core is sampled, such as the kernel's threads for a NIC that is software."""
        self._workdir = workdir
        self._core = core
        self._samples = {}
        self._cycles = {}
        self._count = 0

    @contextlib.contextmanager
    def sampling(self, case, variant, pid):
        """Has perf ready for what is within. What it yields is a context in which the process is sampled."""
        self._count += 1
        data = os.path.join(self._workdir, f"perf.{self._count}.data")
        whom = ["--pid", str(pid)] if self._core is None else ["--cpu", str(self._core)]
        frequency = FREQUENCY if self._core is None else SLOW_FREQUENCY
        orders, order = os.pipe()
        answer, answers = os.pipe()
        argv = ["perf", "record", "--quiet", "--event", "cpu-clock", "--freq", str(frequency), *whom, "--output", data,
                "--delay", "-1", "--control", f"fd:{orders},{answers}"]
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                              start_new_session=True, pass_fds=(orders, answers)) as perf:
            os.close(orders)
            os.close(answers)
            try:
                yield lambda: _sampled(order, answer)
            finally:
                perf.send_signal(signal.SIGINT)
                _, words = perf.communicate()
                os.close(order)
                os.close(answer)
        if not os.path.exists(data):
            raise ProfileFailed(f"perf recorded nothing: {words.strip()}")
        functions = self._samples.setdefault((case.name, variant), {})
        for where, count in read_report(_report(data)):
            functions[where] = functions.get(where, 0) + count
        os.unlink(data)

    def measured(self, case, variant, sample):
        """Notes what was measured meanwhile: how many cycles there were for each I/O."""
        self._cycles.setdefault((case.name, variant), []).append(sample["cycles_per_io"] / sample["b_busy"])

    def text(self):
        """A table of the parts and one of the costliest functions for each case and variant."""
        tables = []
        for (case, variant), functions in self._samples.items():
            tables.append(table(f"{case}, {variant}", functions, median(self._cycles[case, variant])))
        return "\n".join(tables)


@contextlib.contextmanager
def _sampled(order, answer):
    _tell(order, answer, b"enable\n")
    yield
    _tell(order, answer, b"disable\n")


def _tell(order, answer, word):
    # One that has gone is noticed by what it has not recorded.
    with contextlib.suppress(BrokenPipeError):
        os.write(order, word)
        os.read(answer, 16)


def _report(data):
    argv = ["perf", "report", "--input", data, "--stdio", "--quiet", "--no-children", "--sort", "dso,symbol",
            "--show-nr-samples", "--field-separator", "\t"]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProfileFailed(f"perf report failed with status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def read_report(words):
    """Yields ((part, function), samples) for each line of perf's report."""
    for line in words.splitlines():
        fields = [field.strip() for field in line.split("\t")]
        # Some versions have one more column, for what only real processors count.
        if len(fields) < 4 or not fields[1].isdigit():
            continue
        _, count, program, symbol = fields[:4]
        space, _, name = symbol.partition(" ")
        yield (part_of(space, program, name), _short(name)), int(count)


def part_of(space, program, name):
    """Whose function it is: by where it runs, its file, and how its name looks."""
    if space == "[k]":
        return KERNEL
    if program.startswith(("libc.", "libc-", "libm.", "[vdso]", "ld-linux")):
        return LIBC
    return COURIER if "::" in name else SPDK


def _short(name):
    """A Rust function's name without the hash and the types that it was made for."""
    return re.sub(r"<[^<>]*>", "", re.sub(r"::h[0-9a-f]{16}$", "", name)) or name


def table(title, functions, cycles_per_io):
    """The parts and the costliest functions, each with its share of the samples, and that of all cycles per I/O: polls that found nothing
    are among them."""
    total = sum(functions.values())
    parts = {}
    for (part, _), count in functions.items():
        parts[part] = parts.get(part, 0) + count

    def line(count, name):
        return f"{count / total:7.1%} {cycles_per_io * count / total:9,.0f}  {name}"

    def ranked(counts):
        return sorted(counts.items(), key=lambda item: -item[1])

    lines = [f"{title}: {cycles_per_io:,.0f} cycles per I/O, {total:,} samples", f"{'share':>7} {'cycles':>9}"]
    lines += [line(count, part) for part, count in ranked(parts)]
    lines += ["", *(line(count, f"{part}: {name}") for (part, name), count in ranked(functions)[:MOST]), ""]
    return "\n".join(lines)
