"""A run's folder: its configuration, its status, its exit status, and the signals that end it early."""

import dataclasses
import json
import logging
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from omegaconf import OmegaConf

from runner.config import RunConfig
from runner.errors import UserError
from runner.runs import lock
from runner.runs.files import is_unwritable, write_atomically

log = logging.getLogger(__name__)

STATUS = "status.json"
SAVED = "config.yaml"
# Exit statuses by state; that of an interrupted run is 128 + the signal.
CODES = {"finished": 0, "pruned": 0, "failed": 1, "rejected": 2, "diverged": 3}
# The last is a scheduler's notice that it is about to take the machine away.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class RunStopped(Exception):
    """The run is over before its last step, in this state. The message says why."""

    state: str


class Diverged(RunStopped):
    """It diverged: a result, not a failure."""

    state = "diverged"


class Pruned(RunStopped):
    """A search has seen enough of it: a result too."""

    state = "pruned"


class Interrupted(RunStopped):
    """A signal asked for an end; the step was finished."""

    state = "interrupted"

    def __init__(self, number: int):
        self.number = number
        super().__init__(signal.Signals(number).name)


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended, and the exit status that says so."""

    state: str
    code: int

    @property
    def interrupted(self) -> bool:
        return self.state == "interrupted"


class Run:
    """A run's folder, held against other processes, and its status.json, which is whole at every moment.

    A new run's status says at once that it runs. resumed: the folder is that of an earlier run, and its status stays as
    it is until `begin`. swept: the keys that a
    sweep varies, and their values in this run. latest: `outputs/latest` is to point to the folder. Raises UserError
    if another process trains in it.
    """

    def __init__(
        self,
        folder: Path,
        steps: int,
        *,
        resumed: bool = False,
        swept: dict[str, Any] | None = None,
        latest: bool = False,
    ):
        self.folder = folder
        self.resumed, self.swept, self._latest = resumed, swept or {}, latest
        self.stop: int | None = None  # the signal that asked for an end
        self.begun = False  # whether everything is built
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
            "host": socket.gethostname(),
            "duplicate_of": None,
        }
        folder.mkdir(parents=True, exist_ok=True)
        lock.hold(folder)
        if resumed:
            kept = ("step", "objective", "started")
            self._status |= {name: value for name, value in read_status(folder).items() if name in kept}
        else:
            self.update()

    def update(self, **changes: Any) -> None:
        """Writes the changes and the time: the heartbeat by which a running job is told from a dead one."""
        self._status |= changes | {"updated": _now()}
        self._written = time.monotonic()
        write_atomically(self.folder / STATUS, (json.dumps(self._status, indent=1) + "\n").encode())

    def begin(self, config: RunConfig, step: int = 0, objective: float | None = None) -> None:
        """To be called when everything is built, and a resumed run has its state back.

        Only now does `outputs/latest` point to the folder, and does the status of a resumed run say that it runs.
        step, objective: what a resumed run has reached.
        """
        self.begun = True
        if self.resumed:
            save(config, self.folder)
            self.update(step=step, objective=objective)
        if self._latest:
            update_latest_symlink(self.folder)

    def heartbeat(self, step: int) -> None:
        """Notes the step, and writes it at most once a second: so much may be missing after a crash."""
        self._status["step"] = step
        if time.monotonic() - self._written > 1.0:
            self.update()

    def on_evaluation(self, step: int, loss: float) -> None:
        """Takes in an evaluation's loss; a search's run may raise Pruned here."""

    def mark_duplicate(self, earlier: int) -> None:
        """Marks a job of a sweep that repeats an earlier one and is not run."""
        self.update(state="duplicate", duplicate_of=earlier)
        lock.release(self.folder)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Writes into status.json how the block ended; divergence and interruption go no further."""
        try:
            with self._signals():
                yield
            self.update(state="finished")
        except RunStopped as end:
            self.update(state=end.state, reason=str(end))
        except KeyboardInterrupt:
            self._note("interrupted", "SIGINT, twice")
            raise
        except BaseException as error:
            if isinstance(error, UserError):
                if self._written:  # else a resume was refused, and the folder stays as if nobody had asked
                    self._note("rejected", str(error))
                raise
            # What a signal to the whole process group does to helper processes is no bug of the run.
            interrupted = self.stop is not None and not is_unwritable(error)
            self._note("interrupted" if interrupted else "failed", f"{type(error).__name__}: {error}")
            if not interrupted:
                raise
        finally:
            lock.release(self.folder)

    def _note(self, state: str, reason: str) -> None:
        """Writes how the run ended, if the disk still takes it; what ended it is on its way to the user."""
        with suppress(OSError):
            self.update(state=state, reason=reason)

    def outcome(self) -> RunOutcome:
        """How the run ended."""
        state = self._status["state"]
        return RunOutcome(state, CODES[state] if state in CODES else 128 + (self.stop or 0))

    @property
    def status(self) -> dict[str, Any]:
        return dict(self._status)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """The first signal asks the loop to stop after the step; a SIGINT that follows one ends at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, frame: FrameType | None) -> None:
            self.stop = number
            signal.signal(signal.SIGINT, signal.default_int_handler)

        earlier = {number: signal.signal(number, ask) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)


def save(config: RunConfig, folder: Path) -> None:
    """Writes config.yaml: the checked values themselves, whatever files and variables they came from."""
    text = OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config)))
    write_atomically(folder / SAVED, text.encode(), sync=True)


def read_status(folder: Path) -> dict[str, Any]:
    """What status.json says; empty where there is none that can be read."""
    try:
        found = json.loads((folder / STATUS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def actual_state(folder: Path) -> str | None:
    """The state of a run as it really is: `killed` where status.json says running, but no process is.

    None where there is no status.json.
    """
    status = read_status(folder)
    state: str | None = status.get("state")
    if state != "running":
        return state
    held = lock.is_held(folder)
    return state if held or (held is None and lock.alive(status)) else "killed"


def entries(folder: Path) -> set[str] | None:
    """The names of what is in a folder; None where there is no folder."""
    return {path.name for path in folder.iterdir()} if folder.is_dir() else None


def remove_new_entries(folder: Path, before: set[str] | None) -> None:
    """Removes what has come into the folder of a run that could not be built, and the folder if there was none.

    before: its `entries` before the run.
    """
    for path in folder.iterdir():
        if before is None or path.name not in before:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    if before is None:
        folder.rmdir()


def update_latest_symlink(folder: Path) -> None:
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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
