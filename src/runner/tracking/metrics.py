"""metrics.jsonl: a run's scalars as JSON, one object per line, readable during the run. Imports no torch.

A line holds a step and the values of tags at that step: `{"step": 20, "loss/train": 1.5, "lr": 0.1}`. A step with an
evaluation has a second line, with the values of the evaluation. A value that is not finite is NaN, Infinity or
-Infinity, as Python's json module writes and reads them.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from runner.errors import UserError
from runner.runs.files import add_path_to_oserror

METRICS_FILE = "metrics.jsonl"

StepValues = list[tuple[int, float]]


class MetricsWriter:
    """Appends to the metrics.jsonl in a run's folder; each line is in the file when `write` returns."""

    def __init__(self, folder: Path):
        self._path = folder / METRICS_FILE
        self._file = self._path.open("ab")

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends the values of tags at a step. Raises OSError, which names the file."""
        with add_path_to_oserror(self._path):
            self._file.write(json.dumps({"step": step, **scalars}).encode() + b"\n")
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        with add_path_to_oserror(self._path):
            self._file.close()


def read(folder: Path, tags: Collection[str] | None = None) -> dict[str, StepValues]:
    """The steps and values in a run's metrics.jsonl by tag, in ascending order of the steps.

    tags: those to return, if the run has them; None: all. If a step has several values, the last one counts. An
    incomplete last line is ignored; without a file, the result is empty. Raises UserError for any other invalid line.
    """
    path = folder / METRICS_FILE
    try:
        complete, _, _ = path.read_bytes().rpartition(b"\n")
    except FileNotFoundError:
        return {}
    values: dict[str, dict[int, float]] = {}  # by tag and step
    for number, line in enumerate(complete.splitlines(), start=1):
        try:
            scalars = json.loads(line)
            step = int(scalars.pop("step"))
            for tag in scalars if tags is None else scalars.keys() & tags:
                values.setdefault(tag, {})[step] = float(scalars[tag])
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise UserError(f"{path}: line {number} is not a JSON object with a step and numbers") from error
    return {tag: sorted(points.items()) for tag, points in values.items()}
