"""Statistics of paired measurements, with the standard library alone."""

import itertools
import random
from dataclasses import dataclass
from math import nan
from statistics import median

RESAMPLES = 4000
SEED = 1
EXACT_LIMIT = 12


@dataclass(frozen=True)
class Comparison:
    """One figure of one case: both medians, their ratio, and how sure that ratio is. A ratio to nothing is not a number."""

    first: float
    second: float
    ratio: float
    low: float
    high: float
    pair_min: float
    pair_max: float
    p: float


def compare(pairs):
    """Compares pairs (first, second); the ratio is second to first.

    `low` to `high` is the interval in which 95 % of the ratios of medians fall when the pairs are drawn
    anew with replacement (bootstrap). `p` is the two-sided p-value of Wilcoxon's signed-rank test: how
    often chance alone would give a difference as one-sided as this.
    """
    first = median(a for a, _ in pairs)
    second = median(b for _, b in pairs)
    ratios = [_ratio(a, b) for a, b in pairs]
    measurable = all(a > 0 for a, _ in pairs)
    low, high = _bootstrap_interval(pairs) if measurable else (nan, nan)
    extremes = (min(ratios), max(ratios)) if measurable else (nan, nan)
    positive = all(a > 0 and b > 0 for a, b in pairs)
    # Ratios are compared by their distance from 1 both ways; where there are none, the differences have to do.
    distances = [r - 1 if r >= 1 else 1 - 1 / r for r in ratios] if positive else [b - a for a, b in pairs]
    return Comparison(first, second, _ratio(first, second), low, high, *extremes, signed_rank_p(distances))


def median_of(samples):
    """The sample that has the median of each figure of these samples, which are figures by their keys."""
    return {key: median(sample[key] for sample in samples) for key in samples[0]}


def signed_rank_p(distances):
    """Two-sided p-value of Wilcoxon's signed-rank test that the distances lie around 0."""
    distances = [distance for distance in distances if distance]
    if not distances:
        return 1.0
    ranks = _ranks([abs(distance) for distance in distances])
    middle = sum(ranks) / 2
    observed = abs(sum(rank for rank, distance in zip(ranks, distances) if distance > 0) - middle)
    signs = _every_sign(len(ranks)) if len(ranks) <= EXACT_LIMIT else _random_signs(len(ranks))
    extreme = total = 0
    for sign in signs:
        total += 1
        if abs(sum(rank for rank, positive in zip(ranks, sign) if positive) - middle) >= observed - 1e-9:
            extreme += 1
    return extreme / total


def _ratio(first, second):
    return second / first if first > 0 else nan


def _bootstrap_interval(pairs):
    rng = random.Random(SEED)
    ratios = []
    for _ in range(RESAMPLES):
        drawn = rng.choices(pairs, k=len(pairs))
        ratios.append(median(b for _, b in drawn) / median(a for a, _ in drawn))
    ratios.sort()
    return ratios[int(0.025 * RESAMPLES)], ratios[int(0.975 * RESAMPLES) - 1]


def _ranks(values):
    """Rank of each value from 1; equal values share the mean of their ranks."""
    ordered = sorted(values)
    return [ordered.index(value) + (ordered.count(value) + 1) / 2 for value in values]


def _every_sign(count):
    return itertools.product((False, True), repeat=count)


def _random_signs(count):
    rng = random.Random(SEED)
    return ([rng.random() < 0.5 for _ in range(count)] for _ in range(RESAMPLES))
