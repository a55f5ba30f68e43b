"""metrics.jsonl: a run's scalars as JSON, one object per line, readable while the run is going. Imports no torch.

A line holds a step and the values of some tags at that step: `{"step": 20, "loss/train": 1.5, "lr": 0.1}`. A step that
is evaluated has a second line, with the values of the evaluation. A value that is not finite is NaN, Infinity or
-Infinity, as Python's json module writes and reads them.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from runner.errors import UserError
from runner.runs.files import add_path_to_oserror

METRICS = "metrics.jsonl"

Points = list[tuple[int, float]]


class MetricsWriter:
    """Appends to the metrics.jsonl of a run's folder; every line is in the file when `write` returns."""

    def __init__(self, folder: Path):
        self._path = folder / METRICS
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


def read(folder: Path, tags: Collection[str] | None = None) -> dict[str, Points]:
    """The steps and values in a run's metrics.jsonl by tag, in ascending order of the steps.

    tags: those to be returned, if the run has them; None: all. Of several values at one step the last one counts. A
    last line that is not whole yet is ignored, and without a file there are no tags. Raises UserError for any other
    line that is not such an object.
    """
    path = folder / METRICS
    try:
        whole, _, _ = path.read_bytes().rpartition(b"\n")
    except FileNotFoundError:
        return {}
    found: dict[str, dict[int, float]] = {}
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            scalars = json.loads(line)
            step = int(scalars.pop("step"))
            for tag in scalars if tags is None else scalars.keys() & tags:
                found.setdefault(tag, {})[step] = float(scalars[tag])
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise UserError(f"{path}: line {number} is not a JSON object with a step and numbers") from error
    return {tag: sorted(points.items()) for tag, points in found.items()}
