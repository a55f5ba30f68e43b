"""status.json, which a run writes, and the actual state of the run, which may have been killed since."""

import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runner.runs import lock
from runner.runs.files import write_atomically

STATUS_FILE = "status.json"
# The type of each field. A custom `sweep.command` may write null for the fields that allow it; a time that cannot be
# read counts as an old one.
FIELDS: dict[str, Any] = {
    "state": str,
    "step": int,
    "steps": int | None,
    "objective": float | int | None,
    "reason": str | None,
    "started": object,
    "updated": object,
    "pid": int | None,
    "host": str | None,
    "duplicate_of": int | None,
}
MAX_PID = 2**31 - 1
HEARTBEAT_TIMEOUT = 600.0  # seconds after which a run without a visible lock counts as killed


def initial_status(steps: int) -> dict[str, Any]:
    """The status of a run that this process starts now."""
    values = ("running", 0, steps, None, None, now(), now(), os.getpid(), socket.gethostname(), None)
    return dict(zip(FIELDS, values, strict=True))


def read_status(folder: Path) -> dict[str, Any]:
    """The content of status.json; empty unless it can be read, has all fields, and each has a value of its type."""
    try:
        content = json.loads((folder / STATUS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict) or not content.keys() >= FIELDS.keys():
        return {}
    if not all(isinstance(content[name], kind) for name, kind in FIELDS.items()):
        return {}
    pid = content["pid"]
    return content if (content["state"] != "running" if pid is None else 0 < pid <= MAX_PID) else {}


def write_status(folder: Path, status: dict[str, Any]) -> None:
    """Replaces status.json as a whole."""
    write_atomically(folder / STATUS_FILE, (json.dumps(status, indent=1) + "\n").encode())


def change_status(folder: Path, **changes: Any) -> None:
    """Changes the status of a run that has ended or never began; creates the folder if necessary."""
    folder.mkdir(exist_ok=True)
    write_status(folder, (read_status(folder) or initial_status(0)) | changes)


def actual_state(folder: Path, scheduled: bool | None = None) -> str | None:
    """The actual state of a run: `killed` if status.json says `running` but no process runs it.

    This is the only definition of a running run: its lock is held. If this machine cannot see the lock, the scheduler
    decides, and without a scheduler the heartbeat. scheduled: whether the scheduler has the job; None if it was not
    asked. Returns None if the lock is free and there is no readable status.json.
    """
    status, held = read_status(folder), folder.is_dir() and lock.is_held(folder)
    if held:
        return "running"
    state: str | None = status.get("state")
    return state if state != "running" or _is_running(status, held, scheduled) else "killed"


def _is_running(status: dict[str, Any], held: bool | None, scheduled: bool | None) -> bool:
    """Whether a run whose state is `running` is running. held: whether its lock is held; None without locks."""
    here = status["host"] == socket.gethostname()
    if held is False and here:
        return False
    if scheduled is not None:
        return scheduled
    return _has_heartbeat(status) and not (here and not process_exists(status["pid"]))


def _has_heartbeat(status: dict[str, Any]) -> bool:
    """Whether the last heartbeat is not older than HEARTBEAT_TIMEOUT."""
    try:
        age = (datetime.now(UTC) - datetime.fromisoformat(status["updated"])).total_seconds()
    except (ValueError, TypeError):  # damaged
        return False
    return age <= HEARTBEAT_TIMEOUT


def process_exists(pid: int) -> bool:
    """Whether this machine has a process with this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def now() -> str:
    """The time in UTC, in the form of status.json."""
    return datetime.now(UTC).isoformat(timespec="seconds")
