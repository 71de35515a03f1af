"""Statistics of paired measurements, with the standard library alone."""

import itertools
import random
from dataclasses import dataclass
from math import exp, log, nan
from statistics import median

RESAMPLES = 4000
SEED = 1
EXACT_LIMIT = 12


@dataclass(frozen=True)
class Comparison:
    """One figure of one case: both medians, the ratio, and how sure it is. A ratio to nothing is not a number."""

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

    A machine that drifts does so for both of a pair, so the ratio is that which the pairs' own ratios lie around: their pseudomedian
    (Hodges and Lehmann), the median of the geometric means of every two of them. Where a pair has no ratio, it is that of the medians.
    `low` to `high` is the interval in which 95 % of such ratios fall when the pairs are drawn
    anew with replacement (bootstrap). `p` is the two-sided p-value of Wilcoxon's signed-rank test: how
    often chance alone would give a difference as one-sided as this.
    """
    first = median(a for a, _ in pairs)
    second = median(b for _, b in pairs)
    ratios = [_ratio(a, b) for a, b in pairs]
    measurable = all(a > 0 for a, _ in pairs)
    positive = measurable and all(b > 0 for _, b in pairs)
    middle = _pseudomedian(ratios) if positive else _ratio(first, second)
    low, high = (_interval(ratios, _pseudomedian) if positive else
                 _interval(pairs, _ratio_of_medians) if measurable else (nan, nan))
    extremes = (min(ratios), max(ratios)) if measurable else (nan, nan)
    # Ratios are compared by their distance from 1 both ways; where there are none, the differences have to do.
    distances = [log(ratio) for ratio in ratios] if positive else [b - a for a, b in pairs]
    return Comparison(first, second, middle, low, high, *extremes, signed_rank_p(distances))


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


def _ratio_of_medians(pairs):
    return _ratio(median(a for a, _ in pairs), median(b for _, b in pairs))


def _pseudomedian(ratios):
    return exp(median((log(a) + log(b)) / 2 for a, b in itertools.combinations_with_replacement(ratios, 2)))


def _interval(values, estimate):
    rng = random.Random(SEED)
    estimates = sorted(estimate(rng.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return estimates[int(0.025 * RESAMPLES)], estimates[int(0.975 * RESAMPLES) - 1]


def _ranks(values):
    """Rank of each value from 1; equal values share the mean of their ranks."""
    ordered = sorted(values)
    return [ordered.index(value) + (ordered.count(value) + 1) / 2 for value in values]


def _every_sign(count):
    return itertools.product((False, True), repeat=count)


def _random_signs(count):
    rng = random.Random(SEED)
    return ([rng.random() < 0.5 for _ in range(count)] for _ in range(RESAMPLES))
