"""What the bench says of what it measured: tables, result lines, JSON."""

import dataclasses
import json
import math
from statistics import median

from .stats import compare

# The interval of fewer says nothing.
ENOUGH_PAIRS = 3


@dataclasses.dataclass
class CaseResult:
    """All pairs of one case, in the order of the measurements. A sample is a dict of figures by their keys."""

    case: object
    pairs: list  # of (sample of the first variant, sample of the second)

    def comparisons(self):
        """Every figure of the case with its comparison over all pairs."""
        return [(figure, compare([(a[figure.key], b[figure.key]) for a, b in self.pairs])) for figure in self.case.figures]

    def median(self, key, side):
        """Median of something that was measured of one variant, or None if it was not."""
        values = [pair[side][key] for pair in self.pairs if key in pair[side]]
        return median(values) if values else None


@dataclasses.dataclass
class Verdict:
    """One figure of one case, and whether it is what it should be."""

    name: str
    figure: object
    comparison: object
    goal: object = None

    @property
    def met(self):
        """Whether the goal is met; None if there is none."""
        return self.goal.met_by(self.comparison) if self.goal else None

    @property
    def word(self):
        """The same as a word."""
        return {None: "", True: "met", False: "missed"}[self.met]

    @property
    def worse(self):
        """Whether the ratio says that Courier is worse than stock, and its interval does not allow for anything else."""
        c = self.comparison
        return c.ratio < 1 and c.high < 1 if self.figure.higher_is_better else c.ratio > 1 and c.low > 1


def verdicts(results, judged=True):
    """A Verdict for every figure of every case."""
    return [Verdict(f"{result.case.name}.{figure.key}", figure, comparison, result.case.goals.get(figure.key) if judged else None)
            for result in results for figure, comparison in result.comparisons()]


def machine_text(machine):
    """Says which machine the figures are from."""
    kind = ", virtual" if machine["virtual"] else ""
    first, second = machine["bench_cores"]
    return (f"Machine: {machine['cpu']}, {machine['cores']} cores{kind}, {machine['memory_gib']} GiB, "
            f"Linux {machine['kernel']}; {machine['spdk']}\n"
            f"Process A (pool and VM) on core {first}, process B (under test) on core {second}")


def case_text(result, variants):
    """The table of one case."""
    names = [variant.name for variant in variants]
    setup = result.case.setup
    lines = [f"{result.case.name}: {setup.summary}, {result.case.summary}; medians of {len(result.pairs)} pairs"]
    for side, variant in enumerate(variants):
        lines.append(f"  {variant.name} is {variant.chain(setup)}{_remarks(result, side)}")
    lines.append(f"  {'':<22} {names[0]:>12} {names[1]:>12} {'ratio':>7}   {'95 % interval':<15} {'pairs':<15} {'p':>6}")
    for figure, c in result.comparisons():
        lines.append(f"  {figure.title:<22} {c.first:>12,.{figure.decimals}f} {c.second:>12,.{figure.decimals}f} "
                     f"{c.ratio:>7.3f}   {f'{c.low:.3f} - {c.high:.3f}':<15} "
                     f"{f'{c.pair_min:.3f} - {c.pair_max:.3f}':<15} {c.p:>6.3f}")
    return "\n".join(lines)


def legend_text(names):
    """Explains the columns of the tables."""
    return (f"ratio: what the pairs' ratios {names[1]} / {names[0]} lie around (Hodges-Lehmann), which is not that of the medians beside it."
            "\n95 % interval: of that ratio, pairs drawn anew (bootstrap). pairs: the smallest and the largest ratio within a pair."
            "\np: signed-rank test; large means chance explains it.")


def worse_text(results, judgements, names):
    """Names the figures in which the second variant is worse than the first."""
    if any(len(result.pairs) < ENOUGH_PAIRS for result in results):
        return f"Worse than {names[0]}: fewer than {ENOUGH_PAIRS} pairs cannot tell"
    worse = [f"{verdict.name} ({verdict.comparison.ratio:.3f})" for verdict in judgements if verdict.worse]
    return f"Worse than {names[0]}, with all of the interval: {', '.join(worse) or 'none'}"


def verdict_line(verdict, names):
    """One of the last lines: a figure with its goal."""
    c, decimals = verdict.comparison, verdict.figure.decimals
    return (f"bench {verdict.name} {names[0]}={c.first:.{decimals}f} {names[1]}={c.second:.{decimals}f} "
            f"ratio={c.ratio:.3f} goal={verdict.goal or 'none'} {verdict.word}").rstrip()


def text(machine, results, judgements, variants, remarks=()):
    """Everything that the bench says, as text."""
    names = [variant.name for variant in variants]
    parts = [machine_text(machine), *(case_text(result, variants) for result in results), legend_text(names), *remarks,
             worse_text(results, judgements, names), "\n".join(verdict_line(verdict, names) for verdict in judgements)]
    return "\n\n".join(parts) + "\n"


def document(machine, settings, results, judgements, variants):
    """Everything that was measured, and the comparisons, as what JSON can hold."""
    return {
        "machine": machine,
        "settings": settings,
        "variants": [variant.name for variant in variants],
        "cases": [_case_document(result, variants) for result in results],
        "verdicts": {verdict.name: verdict.word for verdict in judgements if verdict.goal},
    }


def write_json(path, content):
    """Writes a document."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(_with_nulls(content), file, indent=2)
        file.write("\n")


def _remarks(result, side):
    busy, bare = result.median("b_busy", side), result.median("bare_latency_us", side)
    return (f", B busy {busy:.0%}" if busy is not None else "") + (
        f"; the bare initiator takes {bare:.2f} µs" if bare is not None else "")


def _case_document(result, variants):
    case = result.case
    names = [variant.name for variant in variants]
    return {
        "name": case.name,
        "chains": {variant.name: str(variant.chain(case.setup)) for variant in variants},
        "summary": case.summary,
        "workload": case.workload,
        "io_size": case.io_size,
        "queue_depth": case.queue_depth,
        "queues": case.queues,
        "goals": {key: str(goal) for key, goal in case.goals.items()},
        "comparison": {figure.key: dataclasses.asdict(comparison) for figure, comparison in result.comparisons()},
        "pairs": [dict(zip(names, pair)) for pair in result.pairs],
    }


def _with_nulls(content):
    """The same, with null for what is not a number, which JSON has no word for."""
    if isinstance(content, dict):
        return {key: _with_nulls(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_with_nulls(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content
