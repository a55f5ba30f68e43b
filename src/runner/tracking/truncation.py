"""Truncates a run's event files and metrics.jsonl to a checkpoint. Imports no torch."""

import logging
import os
from pathlib import Path

from runner.tracking.events import EVENT_FILES
from runner.tracking.metrics import METRICS_FILE

log = logging.getLogger(__name__)


def log_lengths(folder: Path) -> dict[str, int]:
    """The lengths in bytes of the event files and of metrics.jsonl in a folder, by file name."""
    return {path.name: path.stat().st_size for path in _logs(folder)}


def truncate_logs(folder: Path, lengths: dict[str, int]) -> None:
    """Truncates the logs to the `log_lengths` in a checkpoint, since a resumed run logs the later steps again.

    A file without a length was created after the checkpoint, and is deleted.
    """
    paths = {path.name: path for path in _logs(folder)}
    for name in lengths.keys() - paths:
        log.warning("%s: missing; the points in it are lost", folder / name)
    for name, path in paths.items():
        length = lengths.get(name)
        if length is None:
            path.unlink()
            continue
        if path.stat().st_size < length:  # as after a power failure
            log.warning("%s: points are missing at its end", path)
            if name != METRICS_FILE:
                continue  # the resumed run writes a new event file
            length = path.read_bytes().rfind(b"\n") + 1  # the resumed run appends after the last complete line
        os.truncate(path, length)


def _logs(folder: Path) -> list[Path]:
    return [*folder.glob(EVENT_FILES), *folder.glob(METRICS_FILE)]
