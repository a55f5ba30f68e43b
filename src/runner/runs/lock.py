"""A lock that lets one process at a time train in a run's folder.

It is a POSIX record lock, which belongs to one process and is released by the system when that process ends. The locks
of `filelock` would be inherited by a run's data workers, which can outlive the run.
"""

import errno
import fcntl
import os
import time
from pathlib import Path

from runner.errors import UserError

LOCK_FILE = ".lock"
UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # errors of file systems without locks
_held: dict[Path, int] = {}  # kept open: closing any descriptor of the file releases the process's lock


def hold(folder: Path) -> None:
    """Acquires the lock of a folder until `release`; raises UserError if another process holds it."""
    folder = folder.resolve()
    if folder in _held:
        return
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    for pause in (0.05, 0.1, 0.2, 0.0):  # another process may be calling `is_held`
        if (taken := _try_lock(descriptor)) is not False:
            break
        time.sleep(pause)
    if taken is False:
        os.close(descriptor)
        raise UserError(f"{folder}: another process is training in it")
    _held[folder] = descriptor


def release(folder: Path) -> None:
    """Releases the lock of a folder."""
    descriptor = _held.pop(folder.resolve(), None)
    if descriptor is not None:
        os.close(descriptor)


def is_held(folder: Path) -> bool | None:
    """Whether this or another process holds the lock of a folder; None if the file system has no locks."""
    folder = folder.resolve()
    if folder in _held:
        return True
    if not (folder / LOCK_FILE).exists():
        return False
    descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY)  # works without permission to write
    try:
        taken = _try_lock(descriptor, shared=True)
    finally:
        os.close(descriptor)
    return None if taken is None else not taken


def _try_lock(descriptor: int, *, shared: bool = False) -> bool | None:
    """Tries to acquire the lock; returns whether it was free, or None if the file system has no locks."""
    try:
        fcntl.lockf(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return None
    return True
