"""A run's folder: its configuration, its status, its exit status, and the signals that end it early."""

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
# Exit statuses by state; that of an interrupted run is 128 + the signal.
EXIT_STATUSES = {"finished": 0, "failed": 1, "rejected": 2, "diverged": 3}
# The last two are notices of a scheduler that it is about to take the machine away; submitit has Slurm send SIGUSR2.
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2]


class RunStopped(Exception):
    """The run is over before its last step, in this state. The message says why."""

    state: str


class Diverged(RunStopped):
    """It diverged: a result, not a failure."""

    state = "diverged"


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
    it is until `begin`. swept: the keys that a sweep varies, and their values in this run. latest: `outputs/latest` is
    to point to the folder. Raises UserError if another process trains in it.
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
        self._status = initial_status(steps)
        folder.mkdir(parents=True, exist_ok=True)
        lock.hold(folder)
        if resumed:
            kept = ("step", "objective", "started")
            self._status |= {name: value for name, value in read_status(folder).items() if name in kept}
        else:
            self.update()

    def update(self, **changes: Any) -> None:
        """Writes the changes and the time: the heartbeat by which a running job is told from a dead one."""
        self._status |= changes | {"updated": now()}
        self._written = time.monotonic()
        write_status(self.folder, self._status)

    def begin(self, config: RunConfig, step: int = 0, objective: float | None = None) -> None:
        """To be called when everything is built, and a resumed run has its state back.

        Only now does `outputs/latest` point to the folder, and does the status of a resumed run say that it runs.
        step, objective: what a resumed run has reached.
        """
        self.begun = True
        if self.resumed:
            save_config(config, self.folder)
            self.update(step=step, objective=objective)
        if self._latest:
            update_latest_symlink(self.folder)

    def heartbeat(self, step: int) -> None:
        """Notes the step, and writes it at most once a second: so much may be missing after a crash."""
        self._status["step"] = step
        if time.monotonic() - self._written > 1.0:
            self.update()

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
        return RunOutcome(state, EXIT_STATUSES[state] if state in EXIT_STATUSES else 128 + (self.stop or 0))

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


def save_config(config: RunConfig, folder: Path) -> None:
    """Writes config.yaml: the checked values themselves, whatever files and variables they came from."""
    text = OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config)))
    write_atomically(folder / CONFIG_FILE, text.encode(), sync=True)


def _first_files(output_subdir: str | None) -> list[str]:
    """What a start writes before the run begins. output_subdir: Hydra's name of its own folder in it."""
    return [CONFIG_FILE, STATUS_FILE, LOG_FILE, *([output_subdir] if output_subdir else [])]


def check_new(key: str, name: str, output_subdir: str | None) -> None:
    """Raises UserError, with the key that names the folder, if a run is in it already, or it cannot be made."""
    folder = Path(name).absolute()
    if (file := next((file for file in _first_files(output_subdir) if (folder / file).exists()), None)) is not None:
        raise UserError(f"{key}={name}: holds a run already, since {file} is there")
    check_creatable(key, name)


def check_creatable(key: str, name: str) -> None:
    """Raises UserError, with the key that names the folder, if it does not exist and cannot be created."""
    if "${" in name:
        raise UserError(f"{key}={name}: cannot be the folder of a run, since Hydra reads ${{ as an interpolation")
    folder = Path(name).absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{key}={name}: cannot be made, since {existing} is no folder that can be written to")


def remove_rejected(folder: Path, output_subdir: str | None) -> None:
    """Removes what the start of a run wrote that could not be built, and the folder if nothing else is in it.

    None of these files was there before the start: see `check_new`.
    """
    for name in (*_first_files(output_subdir), lock.LOCK_FILE):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if folder != Path.cwd() and not any(folder.iterdir()):
        folder.rmdir()


def resume_command(folder: Path) -> str:
    """The command that resumes the run in a folder, as a shell takes it."""
    return shlex.join(["python", "train.py", f"resume={quote_path(str(folder))}"])


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
