"""The command line of the bench."""

import argparse
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time

from . import cases, chart, machine, report
from .process import MeasurementFailed, Memory, ProcessFailed
from .profile import ProfileFailed, Profiler
from .progress import say
from .rig import Rig
from .rpc import RpcError
from .schedule import DISTURBED, REPEATED, REPEATS, Schedule
from .server import Variant
from .windows import TURN_S, WINDOW_S

EPILOG = f"""
A pair is a fresh stock and a fresh Courier, each with a process A of its own. All are under load at once, but only one side
runs at a time, for {WINDOW_S["tcp"]} s (stock, courier, courier, stock, ...), while the others are suspended, in a
guest too. The group `attached` compares a variant with one controller and with 128 in this way, one variant after the other.
A turn of {TURN_S} s during which other processes or the hypervisor took more than {DISTURBED:.0%} of a core is done again, at most {REPEATS}
times, and not more than {REPEATED:.0%} of all turns.

A goal such as >=1.20 is for the ratio courier / stock; one such as courier>=0.97 for Courier's own figure.

Exit status: 0 measured, 1 could not measure, 2 bad usage, 3 with --check: a goal was missed.
"""
# HUGEPAGES_MIB of scripts/bench.sh has room for four processes.
MEMORY = Memory(1024)
# All of it is pinned page by page, by an emulated machine.
RDMA_MEMORY = Memory(384, small_pools=True)
RESULTS = pathlib.Path(__file__).resolve().parents[3] / "bench-results"


def parse_arguments(argv):
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench.sh", description="Measures Courier against SPDK's own C stack, in pairs, on two cores.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [setup.name for setup in cases.SETUPS if setup is not cases.RDMA] + [case.name for case in cases.over("tcp")]
    parser.add_argument("--case", action="append", choices=names, metavar="NAME",
                        help="measure this case, or this group of cases, only (repeatable; --list names them)")
    parser.add_argument("--guest", action="store_true",
                        help="the cases with fio in a Linux guest, too (they install QEMU and a guest; some 14 minutes more)")
    parser.add_argument("--all", action="store_true", help="measure every case, not only the default ones")
    parser.add_argument("--rdma", action="store_true",
                        help="measure the case over RDMA alone, in an emulated machine whose clock counts instructions: a cycle is one")
    parser.add_argument("--list", action="store_true", help="list the cases and their goals, and end")
    parser.add_argument("--pairs", type=_at_least(1), metavar="N", help="pairs per case (default: 8; with --rdma 3)")
    parser.add_argument("--runtime", type=_at_least(1), metavar="S",
                        help="seconds for each variant, per pair and case (default: 4; with --rdma 2)")
    parser.add_argument("--quick", action="store_true", help="3 pairs of 2 seconds each: under 5 minutes for the default cases")
    parser.add_argument("--out", metavar="DIR",
                        help="folder for the table (bench.txt), everything that was measured (bench.json) and a chart "
                             "(bench.svg); made if it is not there (default: bench-results/<UTC time> in the checkout)")
    parser.add_argument("--json", metavar="FILE", help="write everything that was measured to FILE, too")
    parser.add_argument("--self", dest="against_itself", action="store_true",
                        help="stock against stock: shows the bench's own spread; needs no Courier")
    parser.add_argument("--profile", action="store_true",
                        help="sample process B with perf while it is measured, and write where its time goes to profile.txt; "
                             "the sampling takes time, too, so that the figures of such a run are for nothing else")
    parser.add_argument("--check", action="store_true", help="exit with status 3 if a goal is missed")
    parser.add_argument("--cores", type=_two_cores, default="0,1", metavar="A,B",
                        help="cores for pool and VM, and for the intermediary under test (default: 0,1)")
    parser.add_argument("--needs", action="store_true", help=argparse.SUPPRESS)  # what scripts/bench.sh has to prepare
    parser.add_argument("--tools", metavar="FOLDER", default="", help=argparse.SUPPRESS)
    parser.add_argument("--courier-tgt", metavar="PROGRAM", default="", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.json and not os.path.isdir(os.path.dirname(os.path.abspath(args.json))):
        parser.error(f"--json {args.json}: its folder does not exist")
    args.started = time.time()
    # Where instructions are counted, little varies, and a second takes many.
    args.runtime = args.runtime or (2 if args.quick or args.rdma else 4)
    args.pairs = args.pairs or (3 if args.quick or args.rdma else 8)
    groups = [setup.name for setup in cases.SETUPS if setup is cases.GUEST and args.guest]
    if args.rdma and (args.case or args.all or args.guest or args.json):
        parser.error("--rdma goes without --case, --all, --guest and --json: it is measured in a machine of its own")
    if args.rdma:
        args.cases = cases.over("rdma")
    else:
        args.cases = cases.over("tcp") if args.all else cases.chosen(args.case, groups)
    return args


def main(argv=None):
    """Runs the bench; returns the exit status."""
    args = parse_arguments(argv)
    if args.list:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader such as head(1) may have enough
        list_cases()
        return 0
    if args.needs:
        print(*needs(args))
        return 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    workdir = tempfile.mkdtemp(prefix="courier-bench.")
    try:
        status = run(args, workdir)
    except (ProcessFailed, ProfileFailed, MeasurementFailed, RpcError, OSError) as error:
        print(f"bench: {error}\nbench: the logs of all processes are kept in {workdir}", file=sys.stderr)
        return 1
    except BaseException:
        shutil.rmtree(workdir, ignore_errors=True)
        raise
    shutil.rmtree(workdir, ignore_errors=True)
    return status


def needs(args):
    """What has to be there for these cases besides SPDK and its tools."""
    wanted = {case.setup.needs for case in args.cases} - {""}
    if args.profile:
        wanted.add("perf")
    return sorted(wanted) if args.against_itself else ["courier", *sorted(wanted)]


def list_cases():
    """Prints the cases that there are."""
    for setup, group in cases.by_setup(cases.CASES):
        print(f"{setup.name}: {setup.summary}; stock is {setup.stock}, courier is {setup.courier}")
        for case in group:
            goals = ", ".join(f"{key} {goal}" for key, goal in case.goals.items()) or "none"
            print(f"  {case.name:<16} {case.summary}; goal: {goals}{'' if case.default else ' (not a default case)' if setup is not cases.RDMA else ' (with --rdma)'}")


def run(args, workdir):
    """Measures, reports, and returns the exit status."""
    out = pathlib.Path(args.out) if args.out else RESULTS / time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    out.mkdir(parents=True, exist_ok=True)
    variants = choose_variants(args)
    schedule = Schedule(variants, args.cases, args.pairs, args.runtime)
    tools = {name: find_tool(args.tools, name) for name in ("bdevperf", "spdk_nvme_perf")}
    missed = 0
    profiler = Profiler(workdir, args.cores[1] if args.rdma else None) if args.profile else None
    rig = Rig(workdir, tools, args.cores, RDMA_MEMORY if args.rdma else MEMORY, profiler)
    try:
        machine_words = machine.describe(args.cores, rig.spdk_version())
        schedule.measure(rig)
    finally:
        rig.close()
        # What was measured before something failed is not lost.
        if schedule.results():
            missed = publish(args, out, machine_words, schedule, variants)
            if profiler:
                (out / "profile.txt").write_text(profiler.text(), encoding="utf-8")
        elif not any(out.iterdir()):
            out.rmdir()
    return 3 if missed and args.check else 0


def publish(args, out, machine_words, schedule, variants):
    """Writes the files of a run and prints its table. Returns how many goals were missed."""
    names = [variant.name for variant in variants]
    results = schedule.results()
    judgements = report.verdicts(results, judged=not args.against_itself)
    remarks = []
    complete = len(results) == len(args.cases) and all(len(result.pairs) == args.pairs for result in results)
    if not complete:
        remarks.append("The run ended before everything was measured.")
    if schedule.disturbed:
        remarks.append(f"{schedule.disturbed} turn(s) of {schedule.turns} were disturbed by other processes and were "
                       "kept: do not trust these figures far.")
    settings = {"pairs": args.pairs, "runtime_s": args.runtime, "complete": complete, "turns": schedule.turns,
                "repeated_turns": schedule.repeated, "disturbed_turns": schedule.disturbed,
                "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(args.started))}
    document = report.document(machine_words, settings, results, judgements, variants)
    for path in filter(None, (out / "bench.json", args.json)):
        report.write_json(path, document)
    no_chart = chart.write(str(out / "bench.svg"), judgements, names)
    if no_chart:
        say(f"bench: no chart: {no_chart}")
    remarks.append(f"Written to {out}: bench.txt (this), bench.json{'' if no_chart else ', bench.svg'}")
    words = report.text(machine_words, results, judgements, variants, remarks)
    (out / "bench.txt").write_text(words, encoding="utf-8")
    print(f"\n{words}", end="", flush=True)
    return sum(verdict.met is False for verdict in judgements)


def choose_variants(args):
    """The two intermediaries to compare."""
    stock = find_tool(args.tools, "spdk_tgt")
    first = Variant("stock", stock, courier=False)
    if args.against_itself:
        return first, Variant("stock-2", stock, courier=False)
    if not os.access(args.courier_tgt, os.X_OK):
        raise OSError(f"no program courier_tgt at '{args.courier_tgt}'; build it with cargo build --release")
    return first, Variant("courier", args.courier_tgt, courier=True)


def find_tool(folder, name):
    """The path of one of SPDK's programs, which scripts/bench.sh has put into `folder`."""
    path = os.path.join(folder, name)
    if not os.access(path, os.X_OK):
        raise OSError(f"no program {name} in '{folder}'; scripts/bench.sh puts it there and passes the folder on")
    return path


def _at_least(least):
    def number(text):
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, not {value}")
        return value
    return number


def _two_cores(text):
    usable = os.sched_getaffinity(0)
    try:
        first, second = (int(core) for core in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not two core numbers such as 0,1") from None
    if first == second or not {first, second} <= usable:
        raise argparse.ArgumentTypeError(f"need two different cores of {sorted(usable)}, not {text}")
    return first, second


def _end(number, _frame):
    """Ends the bench by way of its clean-up, which a second signal must not cut short (it takes seconds at most)."""
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, lambda *_: None)
    print("bench: interrupted", file=sys.stderr)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
