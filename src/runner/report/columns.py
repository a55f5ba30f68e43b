"""The metrics of a run or of a sweep as plain columns, for a notebook: `pandas.DataFrame(read(folder))`."""

from pathlib import Path
from typing import Any

from runner.report.trials import read_trials
from runner.tracking import metrics
from runner.tracking.metrics import METRICS_FILE

JOB, STATE, STEP = "job", "state", "step"


def read(folder: str | Path) -> dict[str, list[Any]]:
    """The metrics of a run, or of all jobs of a sweep, as columns of equal length, with a row for each step.

    A run's columns are `step` and its tags; a value that was not logged at a step is None. A sweep has further columns
    before them: `job`, the folder's name, `state`, and every key whose value is not the same in all jobs. Raises
    UserError for a folder without runs.
    """
    path = Path(folder)
    if (path / METRICS_FILE).is_file():
        return _columns(_rows(path))
    rows: list[dict[str, Any]] = []
    for trial in read_trials(path):
        run = trial.result.folder
        own = {JOB: run.name, STATE: trial.result.state} | trial.result.job.values
        rows += [own | row for row in _rows(run)]
    return _columns(rows)


def _rows(run: Path) -> list[dict[str, Any]]:
    """The scalars of each step, in ascending order of the steps."""
    steps: dict[int, dict[str, Any]] = {}
    for tag, points in metrics.read(run).items():
        for step, value in points:
            steps.setdefault(step, {STEP: step})[tag] = value
    return [steps[step] for step in sorted(steps)]


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}
