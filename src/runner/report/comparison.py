"""Compares the best configuration of a sweep with the others, paired by seed.

Two runs with the same seed begin with the same weights and read the same batches, which the difference of their
objectives removes. Each difference gets a t interval (Student 1908); the level is corrected for the number of
comparisons (Bonferroni's inequality, applied to intervals by Dunn 1961). The variances are not pooled as in Tukey's
test: configurations that train badly have far larger spreads, which would hide differences among the good ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runner.report.aggregate import MIN_SEEDS, Table
from runner.report.rows import UNFINISHED, Row

Values = NDArray[np.float64]
ERROR = 0.05  # the probability that an interval of a table misses the true difference, for all of them together
ROUNDING = 1e-12  # differences that are equal up to this share of the objectives are the same number


@dataclass(frozen=True)
class Comparison:
    """A row's mean difference from the best row over the seeds that both finished, of which there are `seeds`.

    difference: None without a common seed. low, high: the ends of its interval; None with fewer than MIN_SEEDS seeds.
    """

    row: Row
    difference: float | None
    low: float | None
    high: float | None
    seeds: int

    @property
    def higher(self) -> bool:
        """Whether the row's objective is higher than that of the best row: its whole interval is above 0."""
        return self.low is not None and self.low > 0

    @property
    def equal(self) -> bool:
        """Whether both gave the same objective at every common seed, as a threshold that limits nothing does."""
        return self.low == self.high == 0


@dataclass(frozen=True)
class Standing:
    """The best row of a table, its comparisons with the other rows without a diverged run, and rows without a result.

    pending: rows of which no run has ended, and which may still be better.
    """

    best: Row
    comparisons: list[Comparison]
    pending: list[Row]

    @property
    def undecided(self) -> list[Comparison]:
        """The comparisons whose intervals are not above 0, without those of equal rows."""
        return [each for each in self.comparisons if each.low is not None and not each.higher and not each.equal]

    @property
    def equal(self) -> list[Row]:
        """The rows that are equal to the best one; more seeds would not tell them apart."""
        return [each.row for each in self.comparisons if each.equal]

    @property
    def unpaired(self) -> list[Row]:
        """The rows that cannot be compared: they have too few seeds in common with the best, or no result yet."""
        return [*(each.row for each in self.comparisons if each.low is None), *self.pending]

    @property
    def repeated(self) -> bool:
        """Whether the best row has enough seeds for intervals."""
        return len(self.best.by_seed) >= MIN_SEEDS

    def has_winner(self, table: Table) -> bool:
        """Whether the best row, and those equal to it, are better than every other, of which there is at least one."""
        others = len(table.rows) - 1 - len(self.equal)
        return others > 0 and self.repeated and not self.undecided and not self.unpaired


def standing(table: Table) -> Standing | None:
    """The comparisons of a table; None if every configuration diverged at a seed, or if the data differ."""
    if not table.stable or len(table.data) > 1:
        return None
    best, *others = table.stable
    pending = [row for row in table.rows if row.rank == 2 and not row.counts["diverged"] and row.count(UNFINISHED)]
    return Standing(best, compare(best, others), pending)


def compare(best: Row, others: Sequence[Row]) -> list[Comparison]:
    """Compares rows with the best one."""
    own = best.by_seed
    objectives = [row.by_seed for row in others]
    common = [tuple(sorted(own.keys() & found.keys())) for found in objectives]
    level = 1 - ERROR / max(sum(len(seeds) >= MIN_SEEDS for seeds in common), 1)
    comparisons: dict[int, Comparison] = {}
    for seeds in set(common):  # rows with the same seeds in common are compared at once, which is faster
        numbers = [number for number, each in enumerate(common) if each == seeds]
        one = np.array([own[seed] for seed in seeds])
        other = np.array([[objectives[number][seed] for seed in seeds] for number in numbers])
        for number, found in zip(numbers, _differences(one, other, level), strict=True):
            comparisons[number] = Comparison(others[number], *found, len(seeds))
    return [comparisons[number] for number in range(len(others))]


def _differences(one: Values, other: Values, level: float) -> list[tuple[float | None, float | None, float | None]]:
    """The mean differences between the objectives of rows and those of the best one, and the ends of their intervals.

    one: objectives of the best row, [seeds]. other: of the rows, [rows, seeds]. level: the confidence.
    """
    count = len(one)
    if not count:
        return [(None, None, None)] * len(other)
    differences = other - one
    tolerance = ROUNDING * np.maximum(abs(one).max(), abs(other).max(axis=1))
    means = differences.mean(axis=1)
    means[abs(means) <= tolerance] = 0.0
    if count < MIN_SEEDS:
        return [(mean, None, None) for mean in means.tolist()]
    ends = np.stack([means, means], axis=1)
    vary = np.ptp(differences, axis=1) > tolerance  # of the others the interval is a point; scipy would warn of them
    if vary.any():
        from scipy import stats

        tests = stats.ttest_rel(other[vary], np.broadcast_to(one, other[vary].shape), axis=1)
        ends[vary] = np.stack(tests.confidence_interval(level), axis=1)
    return [(mean, low, high) for mean, (low, high) in zip(means.tolist(), ends.tolist(), strict=True)]
