"""A run's folder with its configuration and status, its exit status, and the signals that stop it."""

import dataclasses
import logging
import os
import shlex
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from omegaconf import OmegaConf

from runner.config import RunConfig
from runner.errors import UserError, quote_path
from runner.runs import lock
from runner.runs.files import is_unwritable, write_atomically
from runner.runs.log import LOG_FILE
from runner.runs.status import STATUS_FILE, initial_status, now, read_status, write_status

log = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
# The exit status of an interrupted run is 128 + the number of the signal.
EXIT_STATUSES = {"finished": 0, "failed": 1, "rejected": 2, "diverged": 3}
# The signals that stop a run after its step. Schedulers send the last two before they end a job, SIGUSR2 for submitit.
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2]


class RunStopped(Exception):
    """Raised to end a run before its last step, in the state of the class. The message gives the reason."""

    state: str


class Diverged(RunStopped):
    """Raised when a run diverged, which is a result and not a failure."""

    state = "diverged"


class Interrupted(RunStopped):
    """Raised after the step during which a signal asked the run to stop."""

    state = "interrupted"

    def __init__(self, number: int):
        self.number = number
        super().__init__(signal.Signals(number).name)


@dataclass(frozen=True)
class RunOutcome:
    """The state in which a run ended, and its exit status."""

    state: str
    code: int

    @property
    def interrupted(self) -> bool:
        """Whether a signal stopped the run, which can be resumed."""
        return self.state == "interrupted"


class Run:
    """A run's folder, locked against other processes, and its status.json, which is written atomically.

    A new run has the state `running` at once. resumed: the folder is that of an earlier run, whose status is kept until
    `begin`. swept: the keys that a sweep varies, with their values in this run. latest: whether `outputs/latest` is
    made to point to the folder. Raises UserError if another process trains in the folder.
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
        self.stop: int | None = None  # the number of the signal that asked the run to stop
        self.begun = False  # whether the model and everything else is built
        self._written = 0.0
        self._status = initial_status(steps)
        folder.mkdir(parents=True, exist_ok=True)
        lock.hold(folder)
        if resumed:
            kept = ("step", "objective", "started")
            self._status |= {name: value for name, value in read_status(folder).items() if name in kept}
        else:
            self.update()

    def update(self, **changes: Any) -> None:
        """Writes changed fields of the status, and the time: a heartbeat that tells a running job from a killed one."""
        self._status |= changes | {"updated": now()}
        self._written = time.monotonic()
        write_status(self.folder, self._status)

    def begin(self, config: RunConfig, step: int = 0, objective: float | None = None) -> None:
        """Marks the run as running; called when everything is built and a resumed run has loaded its state.

        Only now does `outputs/latest` point to the folder, and does a resumed run get the state `running`.
        step, objective: those of the checkpoint that a run is resumed from.
        """
        self.begun = True
        if self.resumed:
            save_config(config, self.folder)
            self.update(step=step, objective=objective)
        if self._latest:
            update_latest_symlink(self.folder)

    def heartbeat(self, step: int) -> None:
        """Records the step; writes it at most once a second, so the last second is missing after a crash."""
        self._status["step"] = step
        if time.monotonic() - self._written > 1.0:
            self.update()

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Writes to status.json how the block ended, which is the run. Suppresses RunStopped, and no other error."""
        try:
            with self._signals():
                yield
            self.update(state="finished")
        except RunStopped as end:
            self.update(state=end.state, reason=str(end))
        except KeyboardInterrupt:
            self._record("interrupted", "SIGINT, twice")
            raise
        except BaseException as error:
            if isinstance(error, UserError):
                if self._written:  # otherwise a resume was refused, and the folder stays unchanged
                    self._record("rejected", str(error))
                raise
            # A signal to the process group also ends helper processes, whose errors are then not a bug of the run.
            interrupted = self.stop is not None and not is_unwritable(error)
            self._record("interrupted" if interrupted else "failed", f"{type(error).__name__}: {error}")
            if not interrupted:
                raise
        finally:
            lock.release(self.folder)

    def _record(self, state: str, reason: str) -> None:
        """Writes the final state. A full disk is ignored, since the error that ended the run is reported anyway."""
        with suppress(OSError):
            self.update(state=state, reason=reason)

    def outcome(self) -> RunOutcome:
        """The state in which the run ended, and its exit status."""
        state = self._status["state"]
        return RunOutcome(state, EXIT_STATUSES[state] if state in EXIT_STATUSES else 128 + (self.stop or 0))

    @property
    def status(self) -> dict[str, Any]:
        """A copy of the status, as in status.json."""
        return dict(self._status)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Handles signals in the block: the first stops the run after its step, and a later SIGINT ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def request_stop(number: int, frame: FrameType | None) -> None:
            self.stop = number
            signal.signal(signal.SIGINT, signal.default_int_handler)

        previous = {number: signal.signal(number, request_stop) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def save_config(config: RunConfig, folder: Path) -> None:
    """Writes config.yaml with the checked values; interpolations are resolved."""
    text = OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config)))
    write_atomically(folder / CONFIG_FILE, text.encode(), sync=True)


def _first_files(output_subdir: str | None) -> list[str]:
    """The files that a start writes before the run begins. output_subdir: the folder of Hydra's own files."""
    return [CONFIG_FILE, STATUS_FILE, LOG_FILE, *([output_subdir] if output_subdir else [])]


def check_new(key: str, name: str, output_subdir: str | None) -> None:
    """Raises UserError, with the key that names the folder, if it holds a run or cannot be created."""
    folder = Path(name).absolute()
    if (file := next((file for file in _first_files(output_subdir) if (folder / file).exists()), None)) is not None:
        raise UserError(f"{key}={name}: holds a run already: it has {file}")
    check_creatable(key, name)


def check_creatable(key: str, name: str) -> None:
    """Raises UserError, with the key that names the folder, if it does not exist and cannot be created."""
    if "${" in name:
        raise UserError(f"{key}={name}: cannot be the folder of a run, since Hydra reads ${{ as an interpolation")
    folder = Path(name).absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{key}={name}: cannot be created, since {existing} is not a writable folder")


def remove_rejected(folder: Path, output_subdir: str | None) -> None:
    """Removes the files that the start of a rejected run wrote, and the folder if it is then empty.

    None of these files existed before the start: see `check_new`.
    """
    for name in (*_first_files(output_subdir), lock.LOCK_FILE):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if folder != Path.cwd() and not any(folder.iterdir()):
        folder.rmdir()


def resume_command(folder: Path) -> str:
    """The command that resumes the run in a folder, quoted for a shell."""
    return shlex.join(["python", "train.py", f"resume={quote_path(str(folder))}"])


def check_run(folder: Path) -> None:
    """Raises UserError unless a folder is that of a run, with the name of one if it is a sweep's."""
    if (folder / CONFIG_FILE).is_file():
        return
    jobs = sorted((path.parent.name for path in folder.glob(f"*/{CONFIG_FILE}")), key=lambda name: (len(name), name))
    raise UserError(
        f"{folder}: a sweep; name one of its jobs: {folder}/{jobs[0]}"
        if jobs
        else f"{folder}: not the folder of a run; it has no {CONFIG_FILE}"
    )


def update_latest_symlink(folder: Path) -> None:
    """Makes `outputs/latest` point to a run or sweep; does nothing for a folder outside `outputs`."""
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
        log.warning("%s: cannot be changed to point to this folder: %s", outputs / "latest", error.strerror)
