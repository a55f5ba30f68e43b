"""Brings a run's event files and metrics.jsonl back to a checkpoint. Imports no torch."""

import logging
import os
from pathlib import Path

from runner.tracking.events import EVENTS
from runner.tracking.metrics import METRICS

log = logging.getLogger(__name__)


def log_lengths(folder: Path) -> dict[str, int]:
    """The lengths in bytes of a folder's event files and of its metrics.jsonl, by name."""
    return {path.name: path.stat().st_size for path in _logs(folder)}


def truncate_logs(folder: Path, lengths: dict[str, int]) -> None:
    """Truncates the logs to the `log_lengths` in a checkpoint, since what came after it will be logged again.

    A file without a length was begun after the checkpoint, and is deleted.
    """
    found = {path.name: path for path in _logs(folder)}
    for name in lengths.keys() - found:
        log.warning("%s: gone, and its points with it", folder / name)
    for name, path in found.items():
        length = lengths.get(name)
        if length is None:
            path.unlink()
            continue
        if path.stat().st_size < length:  # as after a power cut
            log.warning("%s: points are missing at its end", path)
            if name != METRICS:
                continue  # the resumed run begins an event file of its own
            length = path.read_bytes().rfind(b"\n") + 1  # the resumed run appends, but not to half a line
        os.truncate(path, length)


def _logs(folder: Path) -> list[Path]:
    return [*folder.glob(EVENTS), *folder.glob(METRICS)]
