"""The command line of the bench."""

import argparse
import os
import shutil
import signal
import sys
import tempfile

from . import cases, machine, report
from .process import ProcessFailed
from .rig import MeasurementFailed, Rig
from .rpc import RpcError
from .schedule import DISTURBED, REPEATS, SLICE_S, Schedule
from .server import Variant

EPILOG = f"""
A pair is a fresh stock and a fresh Courier, which share the core of process B: while one is measured, the other
is suspended. They take turns of {SLICE_S} s (stock, courier, courier, stock, ...) until each has had its seconds. A turn
of both during which other processes or the hypervisor took more than {DISTURBED:.0%} of a core is done again, at most {REPEATS}
times. Exit status: 0 measured, 1 could not measure, 2 bad usage, 3 with --check: a goal was missed.
"""


def parse_arguments(argv):
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench.sh", description="Measures Courier against SPDK's own C stack, in pairs, on two cores.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [setup.name for setup in cases.SETUPS if setup.fabric == "tcp"] + [case.name for case in cases.over("tcp")]
    parser.add_argument("--case", action="append", choices=names, metavar="NAME",
                        help="measure this case, or this group of cases, only (repeatable; --list names them)")
    parser.add_argument("--all", action="store_true", help="measure every case, not only the default ones")
    parser.add_argument("--rdma", action="store_true",
                        help="measure the cases over RDMA, in an emulated machine whose clock counts instructions: a cycle is one")
    parser.add_argument("--list", action="store_true", help="list the cases and their goals, and end")
    parser.add_argument("--pairs", type=_at_least(1), default=5, metavar="N", help="pairs per case (default: 5)")
    parser.add_argument("--runtime", type=_at_least(1), metavar="S",
                        help="seconds for each variant, per pair and case (default: 6)")
    parser.add_argument("--quick", action="store_true", help="2 seconds each: about 4 minutes in all")
    parser.add_argument("--json", metavar="FILE", help="write everything that was measured to FILE")
    parser.add_argument("--self", dest="against_itself", action="store_true",
                        help="stock against stock: shows the bench's own spread; needs no Courier")
    parser.add_argument("--check", action="store_true", help="exit with status 3 if a goal is missed")
    parser.add_argument("--cores", type=_two_cores, default="0,1", metavar="A,B",
                        help="cores for pool and VM, and for the intermediary under test (default: 0,1)")
    parser.add_argument("--tools", metavar="FOLDER", default="", help=argparse.SUPPRESS)
    parser.add_argument("--courier-tgt", metavar="PROGRAM", default="", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.json and not os.path.isdir(os.path.dirname(os.path.abspath(args.json))):
        parser.error(f"--json {args.json}: its folder does not exist")
    args.runtime = args.runtime or (2 if args.quick else 6)
    if args.rdma and (args.case or args.all or args.json):
        parser.error("--rdma goes without --case, --all and --json: its cases are measured in a machine of their own")
    if args.rdma:
        args.cases = cases.over("rdma")
    else:
        args.cases = cases.over("tcp") if args.all else cases.chosen(args.case)
    return args


def main(argv=None):
    """Runs the bench; returns the exit status."""
    args = parse_arguments(argv)
    if args.list:
        list_cases()
        return 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    workdir = tempfile.mkdtemp(prefix="courier-bench.")
    try:
        status = run(args, workdir)
    except (ProcessFailed, MeasurementFailed, RpcError, OSError) as error:
        print(f"bench: {error}\nbench: the logs of all processes are kept in {workdir}", file=sys.stderr)
        return 1
    except BaseException:
        shutil.rmtree(workdir, ignore_errors=True)
        raise
    shutil.rmtree(workdir, ignore_errors=True)
    return status


def list_cases():
    """Prints the cases that there are."""
    for setup, group in cases.by_setup(cases.CASES):
        print(f"{setup.name}: {setup.summary}; stock is {setup.stock}, courier is {setup.courier}")
        for case in group:
            only = "--rdma" if setup.fabric == "rdma" else "--case or --all"
            goals = ", ".join(f"{key} ratio {goal}" for key, goal in case.goals.items()) or "none"
            print(f"  {case.name:<16} {case.summary}; goal: {goals}{'' if case.default else f' (only with {only})'}")


def run(args, workdir):
    """Measures, reports, and returns the exit status."""
    variants = choose_variants(args)
    names = [variant.name for variant in variants]
    # The emulated machine's own work (its NIC is software) looks like that of others.
    schedule = Schedule(variants, args.cases, args.pairs, args.runtime, repeats=0 if args.rdma else REPEATS)
    rig = Rig(workdir, find_tool(args.tools, "bdevperf"), args.cores)
    try:
        machine_words = machine.describe(args.cores, rig.spdk_version())
        results = schedule.measure(rig)
    finally:
        rig.close()

    report.print_machine(machine_words)
    for result in results:
        report.print_case(result, variants)
    report.print_legend(names)
    if schedule.disturbed:
        print(f"{schedule.disturbed} turn(s) of {schedule.turns} were disturbed by other processes each time and were kept: "
              "do not trust these figures far.")
    if args.json:
        settings = {"pairs": args.pairs, "runtime_s": args.runtime, "turns": schedule.turns,
                    "disturbed_turns": schedule.disturbed}
        report.write_json(args.json, machine_words, settings, results, variants)
    missed = report.print_verdicts(results, names, judged=not args.against_itself)
    return 3 if missed and args.check else 0


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
