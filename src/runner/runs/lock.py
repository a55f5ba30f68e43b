"""One process at a time in a run's folder.

This is not `filelock`, whose locks a run's data workers would inherit, and hold when the run is dead. A POSIX record
lock belongs to one process, and the system drops it when that process ends, however it ends.
"""

import errno
import fcntl
import os
import time
from pathlib import Path

from runner.errors import UserError

LOCK_FILE = ".lock"
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # errors of a file system without locks
_held: dict[Path, int] = {}  # to close another descriptor of a file drops the process's lock on it


def hold(folder: Path) -> None:
    """Takes the folder for this process until `release`; raises UserError if another one has it."""
    folder = folder.resolve()
    if folder in _held:
        return
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    for pause in (0.05, 0.1, 0.2, 0.0):  # another process may be calling `is_held`
        if (taken := _take(descriptor)) is not False:
            break
        time.sleep(pause)
    if taken is False:
        os.close(descriptor)
        raise UserError(f"{folder}: another process is training in it")
    _held[folder] = descriptor


def release(folder: Path) -> None:
    """Gives the folder back."""
    descriptor = _held.pop(folder.resolve(), None)
    if descriptor is not None:
        os.close(descriptor)


def is_held(folder: Path) -> bool | None:
    """Whether a process, this one or another, is training in the folder; None where there are no locks."""
    folder = folder.resolve()
    if folder in _held:
        return True
    if not (folder / LOCK_FILE).exists():
        return False
    descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY)  # needs no right to write
    try:
        taken = _take(descriptor, shared=True)
    finally:
        os.close(descriptor)
    return None if taken is None else not taken


def _take(descriptor: int, *, shared: bool = False) -> bool | None:
    """Whether the lock was free; None where the file system has none."""
    try:
        fcntl.lockf(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return None
    return True
