"""status.json: what a run says of itself, and what is true of it."""

import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runner.runs import lock
from runner.runs.files import write_atomically

STATUS_FILE = "status.json"
FIELDS: dict[str, Any] = {  # the type of each field; a time that cannot be read counts as an old one
    "state": str,
    "step": int,
    "steps": int,
    "objective": float | int | None,
    "reason": str | None,
    "started": object,
    "updated": object,
    "pid": int,
    "host": str,
    "duplicate_of": int | None,
}
MAX_PID = 2**31 - 1
HEARTBEAT_TIMEOUT = 600.0  # seconds without a heartbeat after which a run that no lock shows counts as killed


def initial_status(steps: int) -> dict[str, Any]:
    """The status of a run of this process that begins now."""
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
    typed = all(isinstance(content[name], kind) for name, kind in FIELDS.items())
    return content if typed and 0 < content["pid"] <= MAX_PID else {}


def write_status(folder: Path, status: dict[str, Any]) -> None:
    """Replaces status.json as a whole."""
    write_atomically(folder / STATUS_FILE, (json.dumps(status, indent=1) + "\n").encode())


def change_status(folder: Path, **changes: Any) -> None:
    """Writes what a run that has ended, or never began, cannot write itself; makes the folder if there is none."""
    folder.mkdir(exist_ok=True)
    write_status(folder, (read_status(folder) or initial_status(0)) | changes)


def actual_state(folder: Path, scheduled: bool | None = None) -> str | None:
    """The state of a run as it is: `killed` where status.json says running, but no process is.

    This is the one definition of a running run. Whoever holds its lock runs it, even before its status says so; where
    this machine cannot see the lock, what the scheduler says of its job (scheduled, where it was asked) decides; where
    there is none, the heartbeat. None without a lock that is held and a status.json that can be read.
    """
    status, held = read_status(folder), folder.is_dir() and lock.is_held(folder)
    if held:
        return "running"
    state: str | None = status.get("state")
    return state if state != "running" or _is_running(status, held, scheduled) else "killed"


def _is_running(status: dict[str, Any], held: bool | None, scheduled: bool | None) -> bool:
    """Whether a run that says so is running. held: None where there are no locks."""
    here = status["host"] == socket.gethostname()
    if held is False and here:
        return False
    if scheduled is not None:
        return scheduled
    return _has_heartbeat(status) and not (here and not process_exists(status["pid"]))


def _has_heartbeat(status: dict[str, Any]) -> bool:
    try:
        silent = (datetime.now(UTC) - datetime.fromisoformat(status["updated"])).total_seconds()
    except (ValueError, TypeError):  # damaged
        return False
    return silent <= HEARTBEAT_TIMEOUT


def process_exists(pid: int) -> bool:
    """Whether this machine has a process of this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def now() -> str:
    """The time, in UTC, as status.json has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
