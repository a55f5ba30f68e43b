"""One process at a time in a run's folder, and how a run that was killed is told from one that is running.

The system itself drops the lock when the process ends, however it ends: no stale lock is ever left. It is a
POSIX record lock, which a process's children do not inherit: a data worker that outlives its run holds nothing.
"""

import os
import sys
from pathlib import Path

from trainer.config import Mistake

if sys.platform != "win32":
    import fcntl

NAME = ".lock"
_held: dict[Path, int] = {}


def hold(folder: Path) -> None:
    """Takes the folder for this process until `release`; raises Mistake if another one has it."""
    folder = folder.resolve()
    if folder in _held:
        return
    descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    if not _take(descriptor):
        os.close(descriptor)
        raise Mistake(f"{folder}: another process is training in it")
    _held[folder] = descriptor


def release(folder: Path) -> None:
    """Gives the folder back."""
    descriptor = _held.pop(folder.resolve(), None)
    if descriptor is not None:
        os.close(descriptor)


def is_held(folder: Path) -> bool:
    """Whether a process, this one or another, is training in the folder."""
    folder = folder.resolve()
    if folder in _held:
        return True
    if not (folder / NAME).exists():
        return False
    descriptor = os.open(folder / NAME, os.O_RDONLY)  # anybody may ask
    try:
        return not _take(descriptor, shared=True)
    finally:
        os.close(descriptor)


def _take(descriptor: int, *, shared: bool = False) -> bool:
    if sys.platform == "win32":
        return True  # there is no such lock
    try:
        fcntl.lockf(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
