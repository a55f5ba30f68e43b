"""One process at a time in a run's folder, and how a run that was killed is told from one that is running.

The system itself drops the lock when the process ends, however it ends: no stale lock is ever left. It is a
POSIX record lock, which a process's children do not inherit: a data worker that outlives its run holds nothing.
Where there are no such locks, on Windows and on some network disks, the heartbeat in status.json has to do.
"""

import errno
import os
import socket
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runner.errors import UserError

if sys.platform != "win32":
    import fcntl

NAME = ".lock"
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # what a disk that has none answers
SILENCE = 600.0  # seconds without a heartbeat after which a running job counts as dead
_held: dict[Path, int] = {}


def hold(folder: Path) -> None:
    """Takes the folder for this process until `release`; raises UserError if another one has it."""
    folder = folder.resolve()
    if folder in _held:
        return
    descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    for patience in (0.05, 0.1, 0.2, 0.0):  # somebody may be asking, in `is_held`
        if (taken := _take(descriptor)) is not False:
            break
        time.sleep(patience)
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
    if not (folder / NAME).exists():
        return False
    descriptor = os.open(folder / NAME, os.O_RDONLY)  # anybody may ask
    try:
        taken = _take(descriptor, shared=True)
    finally:
        os.close(descriptor)
    return None if taken is None else not taken


def _take(descriptor: int, *, shared: bool = False) -> bool | None:
    """Whether the lock was free; None where there is none to take."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.lockf(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return None
    return True


def alive(status: dict[str, Any]) -> bool:
    """Whether a run that says so is running, by what it says: a process of this machine, or a fresh heartbeat."""
    silent = (datetime.now(UTC) - datetime.fromisoformat(status["updated"])).total_seconds()
    if silent > SILENCE:
        return False
    if status.get("host", socket.gethostname()) != socket.gethostname():
        return True
    try:
        os.kill(status["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(status["pid"])


def _is_zombie(pid: int) -> bool:
    """Dead, and its parent has not looked yet; only Linux can be asked."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False
