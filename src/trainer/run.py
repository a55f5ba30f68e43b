"""A run's folder: its status, its exit status, its seeds, and the signals that end it early."""

import json
import logging
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

log = logging.getLogger(__name__)

STATUS = "status.json"
CODES = {"finished": 0, "failed": 1, "diverged": 3}  # exit statuses; interrupted is 128 + the signal


class Diverged(Exception):
    """The run is over because it diverged: a result, not a failure. The message says why."""

    state = "diverged"


class Interrupted(Exception):
    """A signal asked for an end; the step was finished."""

    state = "interrupted"

    def __init__(self, number: int):
        self.number = number
        super().__init__(signal.Signals(number).name)


@dataclass(frozen=True)
class Ending:
    """How a run ended, and the exit status that says so."""

    state: str
    code: int

    @property
    def interrupted(self) -> bool:
        return self.state == "interrupted"


class Run:
    """A run's folder and its status.json, which is whole at every moment."""

    def __init__(self, folder: Path, steps: int):
        self.folder = folder
        self.stop: int | None = None  # the signal that asked for an end
        self._written = 0.0
        self._status: dict[str, Any] = {
            "state": "running",
            "step": 0,
            "steps": steps,
            "objective": None,
            "reason": None,
            "started": _now(),
            "updated": _now(),
            "pid": os.getpid(),
            "duplicate_of": None,
        }
        folder.mkdir(parents=True, exist_ok=True)
        self.update()

    def update(self, **changes: Any) -> None:
        """Writes the changes and the time: the heartbeat by which a running job is told from a dead one."""
        self._status |= changes | {"updated": _now()}
        self._written = time.monotonic()
        write_atomically(self.folder / STATUS, (json.dumps(self._status, indent=1) + "\n").encode())

    def heartbeat(self, step: int) -> None:
        """Notes the step, and writes it at most once a second: so much may be missing after a crash."""
        self._status["step"] = step
        if time.monotonic() - self._written > 1.0:
            self.update()

    def duplicate(self, earlier: int) -> None:
        """Marks a job of a sweep that repeats an earlier one and is not run."""
        self.update(state="duplicate", duplicate_of=earlier)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Writes into status.json how the block ended; divergence and interruption go no further."""
        try:
            with self._signals():
                yield
            self.update(state="finished")
        except (Diverged, Interrupted) as end:
            self.update(state=end.state, reason=str(end))
        except KeyboardInterrupt:
            self.update(state="interrupted", reason="SIGINT, twice")
            raise
        except BaseException as error:
            # What a signal to the whole process group does to helper processes is no bug of the run.
            state = "failed" if self.stop is None else "interrupted"
            self.update(state=state, reason=f"{type(error).__name__}: {error}")
            if self.stop is None:
                raise

    def ending(self) -> Ending:
        state = self._status["state"]
        return Ending(state, CODES[state] if state in CODES else 128 + (self.stop or 0))

    @property
    def status(self) -> dict[str, Any]:
        return dict(self._status)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """The first SIGINT or SIGTERM asks the loop to stop after the step; a second SIGINT ends at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, frame: FrameType | None) -> None:
            self.stop = number
            signal.signal(signal.SIGINT, signal.default_int_handler)

        earlier = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)


def write_atomically(path: Path, content: bytes) -> None:
    """A reader sees the old file or the new one, never half of it."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


def point_latest(folder: Path) -> None:
    """`outputs/latest` names the newest run or sweep; nothing is done for a folder that lies elsewhere."""
    outputs = next((parent for parent in folder.absolute().parents if parent.name == "outputs"), None)
    if outputs is None:
        return
    link = outputs / f".latest.{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(folder.absolute().relative_to(outputs))
    try:
        link.replace(outputs / "latest")
    except OSError as error:
        link.unlink()
        log.warning("%s cannot be made to point here: %s", outputs / "latest", error.strerror)


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
