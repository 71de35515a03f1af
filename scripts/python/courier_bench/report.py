"""What the bench says: progress, tables, result lines, JSON."""

import dataclasses
import json
import sys
import time
from statistics import median

from .cases import FIGURES
from .stats import compare


class Progress:
    """A line on standard error for each pair of each case, with the time that is left."""

    def __init__(self, steps, seconds):
        self._steps = steps
        self._done = 0
        self._start = time.monotonic()
        _say(f"    {steps} measurements of a pair, about {_duration(seconds)}")

    def measured(self, case, number, names, pair):
        """Reports one pair of one case."""
        self._done += 1
        left = (time.monotonic() - self._start) / self._done * (self._steps - self._done)
        sides = ", ".join(f"{name} {side.iops:,.0f} IOPS {side.latency_us:.1f} µs {side.cycles_per_io:,.0f} cycles"
                          for name, side in zip(names, pair))
        _say(f"    [{self._done:{len(str(self._steps))}}/{self._steps}] pair {number} {case.name:<15} {sides}; "
             f"{_duration(left)} left")

    def disturbed(self, case, others):
        """Says that a turn cannot be trusted, and why."""
        _say(f"        {case.name}: others used {others:.0%} of a core, again and again; kept all the same")


@dataclasses.dataclass
class CaseResult:
    """All pairs of one case, in the order of the measurements."""

    case: object
    pairs: list  # of (Measurement, Measurement)

    def comparison(self, figure):
        """The comparison of one figure over all pairs."""
        return compare([(getattr(a, figure.key), getattr(b, figure.key)) for a, b in self.pairs])

    def b_busy(self):
        """Median share of time that B's reactor had work, per variant."""
        return tuple(median(pair[side].b_busy for pair in self.pairs) for side in (0, 1))


def print_machine(machine):
    """Says which machine the figures are from."""
    kind = ", virtual" if machine["virtual"] else ""
    print(f"\nMachine: {machine['cpu']}, {machine['cores']} cores{kind}, {machine['memory_gib']} GiB, "
          f"Linux {machine['kernel']}; {machine['spdk']}")
    print("Process A (pool and VM) on core {}, process B (under test) on core {}".format(*machine["bench_cores"]))


def print_case(result, variants):
    """The table of one case."""
    names = [variant.name for variant in variants]
    busy = result.b_busy()
    setup = result.case.setup
    print(f"\n{result.case.name}: {setup.summary}, {result.case.summary}; medians of {len(result.pairs)} pairs")
    for variant, share in zip(variants, busy):
        print(f"  {variant.name} is {variant.chain(setup)}, B busy {share:.0%}")
    print(f"  {'':<20} {names[0]:>12} {names[1]:>12} {'ratio':>7}   {'95 % interval':<15} {'pairs':<15} {'p':>6}")
    for figure in FIGURES:
        c = result.comparison(figure)
        print(f"  {figure.title:<20} {c.first:>12,.{figure.decimals}f} {c.second:>12,.{figure.decimals}f} "
              f"{c.ratio:>7.3f}   {f'{c.low:.3f} - {c.high:.3f}':<15} "
              f"{f'{c.pair_min:.3f} - {c.pair_max:.3f}':<15} {c.p:>6.3f}")


def print_legend(names):
    """Explains the columns of the tables."""
    print(f"\nratio: {names[1]} / {names[0]}, of the medians. 95 % interval: of that ratio, pairs drawn anew (bootstrap)."
          "\npairs: the smallest and the largest ratio within a pair. p: signed-rank test; large means chance explains it.")


def print_verdicts(results, names, judged):
    """The last lines: every figure of every case with its goal. Returns how many goals were missed."""
    print()
    missed = 0
    for result in results:
        for figure in FIGURES:
            c = result.comparison(figure)
            goal = result.case.goals.get(figure.key) if judged else None
            verdict = ""
            if goal:
                met = goal.met_by(c.ratio)
                missed += not met
                verdict = " met" if met else " missed"
            print(f"bench {result.case.name}.{figure.key} {names[0]}={c.first:.{figure.decimals}f} "
                  f"{names[1]}={c.second:.{figure.decimals}f} ratio={c.ratio:.3f} goal={goal or 'none'}{verdict}")
    return missed


def write_json(path, machine, settings, results, variants):
    """Everything that was measured, and the comparisons, as JSON."""
    document = {
        "machine": machine,
        "settings": settings,
        "variants": [variant.name for variant in variants],
        "cases": [_case_json(result, variants) for result in results],
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=2)
        file.write("\n")


def _say(text):
    print(text, file=sys.stderr, flush=True)


def _duration(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


def _case_json(result, variants):
    case = result.case
    names = [variant.name for variant in variants]
    return {
        "name": case.name,
        "chains": {variant.name: str(variant.chain(case.setup)) for variant in variants},
        "summary": case.summary,
        "workload": case.workload,
        "io_size": case.io_size,
        "queue_depth": case.queue_depth,
        "goals": {key: str(goal) for key, goal in case.goals.items()},
        "comparison": {figure.key: dataclasses.asdict(result.comparison(figure)) for figure in FIGURES},
        "pairs": [{name: dataclasses.asdict(side) for name, side in zip(names, pair)} for pair in result.pairs],
    }
