"""The thresholds and learning rates at which the runs of a sweep diverged."""

import math
from collections.abc import Sequence
from pathlib import Path

from runner.report.rows import POLICY, RATE, THRESHOLD
from runner.report.trials import SEED, Trial, read_trials
from runner.runs.run import CONFIG_FILE
from runner.sweeps.results import read_plan


def failed_thresholds(run: Path) -> dict[float, Path]:
    """The thresholds of clip=norm at which this run, or another job of its sweep, diverged, each with that run.

    Only jobs that differ from this run in the threshold, the seed and the policy count.
    """
    return {float(trial.values[THRESHOLD]): trial.result.folder
            for trial in _failed(run, "clip.") if trial.values.get(POLICY) == "norm"}  # fmt: skip


def failed_rates(run: Path) -> list[float]:
    """The learning rates at which this run, or another job of its sweep, diverged.

    Only jobs that differ from this run in the learning rate, the seed and the clipping count.
    """
    return [float(trial.values[RATE]) for trial in _failed(run, "clip.", RATE) if trial.values.get(RATE)]


def _failed(run: Path, *may_differ: str) -> list[Trial]:
    """The diverged jobs of a run's sweep, with itself, that differ from it in the seed and such keys at most."""
    if not (run / CONFIG_FILE).is_file():
        return []
    trials = read_trials(run.parent if read_plan(run.parent) else run)
    others = [{key: value for key, value in trial.values.items() if not key.startswith((SEED, *may_differ))}
              for trial in trials]  # fmt: skip
    own = next((each for each, trial in zip(others, trials, strict=True) if trial.result.folder.name == run.name), None)
    return [trial for each, trial in zip(others, trials, strict=True)
            if each == own and trial.result.state == "diverged"]  # fmt: skip


def safe_below(failed: Sequence[float]) -> float:
    """The largest threshold that counts as safe: a third of the lowest one that failed, since runs differ by chance."""
    return min(failed, default=math.inf) / 3
