"""Compares the best configuration of a sweep with the others, paired by seed.

Two runs with the same seed begin with the same weights and read the same batches, which the difference of their
objectives removes. Each difference gets a t interval (Student 1908); the level is corrected for the number of
comparisons (Bonferroni's inequality, applied to intervals by Dunn 1961). The variances are not pooled as in Tukey's
test: configurations that train badly have far larger spreads, which would hide differences among the good ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runner.report.aggregate import MIN_SEEDS, UNFINISHED, Row, Table

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
        """The comparisons whose intervals are not above 0."""
        return [each for each in self.comparisons if each.low is not None and not each.higher]

    @property
    def unpaired(self) -> list[Row]:
        """The rows that cannot be compared: they have too few seeds in common with the best, or no result yet."""
        return [*(each.row for each in self.comparisons if each.low is None), *self.pending]

    @property
    def repeated(self) -> bool:
        """Whether the best row has enough seeds for intervals."""
        return len(self.best.by_seed) >= MIN_SEEDS

    def has_winner(self, table: Table) -> bool:
        """Whether the best row is better than every other; a configuration alone is not."""
        return len(table.rows) > 1 and self.repeated and not self.undecided and not self.unpaired


def standing(table: Table) -> Standing | None:
    """The comparisons of a table; None if every configuration diverged at a seed, or if the data differ."""
    if not table.stable or len(table.data) > 1:
        return None
    best, *others = table.stable
    pending = [row for row in table.rows if row.rank == 2 and not row.counts["diverged"] and row.count(UNFINISHED)]
    return Standing(best, compare(best, others), pending)


def compare(best: Row, others: Sequence[Row]) -> list[Comparison]:
    """Compares rows with the best one."""
    common = [sorted(best.by_seed.keys() & row.by_seed.keys()) for row in others]
    level = 1 - ERROR / max(sum(len(seeds) >= MIN_SEEDS for seeds in common), 1)
    return [_compare(best, row, seeds, level) for row, seeds in zip(others, common, strict=True)]


def _compare(best: Row, row: Row, seeds: Sequence[int], level: float) -> Comparison:
    """level: the confidence of the interval."""
    one, other = (np.array([each.by_seed[seed] for seed in seeds]) for each in (best, row))
    if not seeds:
        return Comparison(row, None, None, None, 0)
    differences = other - one
    mean, tolerance = float(differences.mean()), ROUNDING * max(abs(one).max(), abs(other).max())
    mean = 0.0 if abs(mean) <= tolerance else mean
    if len(seeds) < MIN_SEEDS:
        return Comparison(row, mean, None, None, len(seeds))
    if np.ptp(differences) <= tolerance:  # without a spread, of which scipy would warn
        return Comparison(row, mean, mean, mean, len(seeds))
    from scipy import stats

    low, high = stats.ttest_rel(other, one).confidence_interval(level)
    return Comparison(row, mean, float(low), float(high), len(seeds))
