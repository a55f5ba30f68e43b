"""The rows of a report's table: a configuration with the runs of all its seeds."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gradclip.policies import Policy
from runner.report.settings import Settings, settings_of_values
from runner.report.trials import Series, Trial
from runner.tracking.tags import CLIP_FRACTION, CLIP_LIMIT, NORM_BEFORE

POLICY, THRESHOLD, RATE = "clip.name", "clip.max", "optimizer.lr"
FAILED = ("failed", "killed", "rejected")
UNFINISHED = ("running", "queued", "missing", "interrupted")


@dataclass
class Row:
    """A configuration with the runs of all its seeds. Mean and standard deviation are those of the finished runs."""

    values: dict[str, Any]
    trials: list[Trial]

    @property
    def objectives(self) -> list[float]:
        """The objectives of the finished runs."""
        return [trial.result.objective for trial in self.trials if trial.finished]  # type: ignore[misc]

    @property
    def by_seed(self) -> dict[int, float]:
        """The objectives of the finished runs by seed, without those of runs whose seed is unknown."""
        finished = {trial.seed: trial.result.objective for trial in self.trials if trial.finished}
        return {seed: objective for seed, objective in finished.items() if seed is not None and objective is not None}

    @property
    def mean(self) -> float:
        """The mean objective; nan if no run finished."""
        return statistics.fmean(self.objectives) if self.objectives else math.nan

    @property
    def standard_deviation(self) -> float | None:
        """The standard deviation over seeds; None if fewer than two runs finished."""
        return statistics.stdev(self.objectives) if len(self.objectives) > 1 else None

    @property
    def counts(self) -> Counter[str]:
        """The number of runs in each state."""
        return Counter(trial.result.state for trial in self.trials)

    def count(self, states: Iterable[str]) -> int:
        """The number of runs whose state is one of these."""
        return sum(self.counts[state] for state in states)

    @property
    def rank(self) -> int:
        """0: finished without divergence; 1: diverged at some seeds; 2: finished at none."""
        return 2 if not self.objectives else int(self.counts["diverged"] > 0)

    @property
    def settings(self) -> Settings:
        """The values of the row's clipping and of its optimizer."""
        return settings_of_values(self.values)

    @property
    def policy(self) -> str:
        """The name of the row's clipping policy."""
        return str(self.values.get(POLICY))

    @property
    def clipped(self) -> float | None:
        """The share of steps in which anything was limited, over all runs."""
        return _pool([series[CLIP_FRACTION].values > 0 for series in self._series if CLIP_FRACTION in series], "mean")

    @property
    def logged(self) -> int:
        """The number of runs behind the share of clipped steps."""
        return sum(CLIP_FRACTION in series for series in self._series)

    @property
    def norm(self) -> float | None:
        """The median norm before clipping, over all steps of all runs."""
        return _pool([series[NORM_BEFORE].values for series in self._series if NORM_BEFORE in series], "median")

    @property
    def fixed_threshold(self) -> float | None:
        """`clip.max`, if it is the threshold itself; None for a policy without one, or with a limit of its own."""
        schema, limit = Policy.options.get(self.policy), self.values.get(THRESHOLD)
        if schema is None or schema.kind == "measure" or limit is None or schema.max_is_cap:
            return None
        return float(limit)

    @property
    def threshold(self) -> float | None:
        """The row's position on a plot's threshold axis: its fixed threshold, else the median limit of its runs."""
        schema = Policy.options.get(self.policy)
        if schema is None or schema.kind == "measure":
            return None
        if self.fixed_threshold is not None:
            return self.fixed_threshold
        return _pool([series[CLIP_LIMIT].values for series in self._series if CLIP_LIMIT in series], "median")

    @property
    def best_trial(self) -> Trial:
        """The finished run with the lowest objective; if none finished, the run that took the most steps."""
        finished = [trial for trial in self.trials if trial.finished]
        if finished:
            return min(finished, key=lambda trial: trial.result.objective or 0.0)
        return max(self.trials, key=lambda trial: trial.result.step)

    @property
    def _series(self) -> list[dict[str, Series]]:
        return [trial.series for trial in self.trials]


def _pool(arrays: Sequence[Any], statistic: Literal["mean", "median"]) -> float | None:
    """A statistic of the finite values of all arrays together; None if there are none."""
    values = np.concatenate([np.asarray(array, np.float64) for array in arrays]) if arrays else np.zeros(0)
    values = values[np.isfinite(values)]
    return float(getattr(np, statistic)(values)) if values.size else None
