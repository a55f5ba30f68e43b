"""The jobs of a sweep, a few at once: started, watched, interrupted, and reported one line each."""

import itertools
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Protocol

from runner.config import Sweep
from runner.errors import EXIT_USER_ERROR, print_line, quote_override
from runner.runs.log import job_output_path
from runner.runs.run import CONFIG_FILE, SIGNALS
from runner.runs.status import actual_state, change_status
from runner.sweeps.results import Job, Plan, Result, read_one

POLL = 0.05  # seconds between two looks at the running jobs


class Process(Protocol):
    """A started job."""

    @property
    def id(self) -> str | None:
        """The number that a cluster gave it."""

    def poll(self) -> int | None:
        """Its exit status, negative for a signal that ended it; None while it runs."""

    def send(self, number: int) -> bool:
        """Sends a signal to it; False if it cannot take one yet."""


class Launcher(Protocol):
    """Starts jobs."""

    def start(self, folder: Path, command: Sequence[str]) -> Process:
        """Starts the command of the job whose folder this is."""


class Source(Protocol):
    """Where the jobs come from. total: how many there are to be."""

    total: int

    def next(self) -> Job | None:
        """The next job to start; None when there is none."""

    def watch(self, job: Job) -> str | None:
        """Why a running job is to be ended early, as pruned; None if it is not."""

    def ended(self, result: Result) -> None:
        """Takes in how a job ended."""

    def conclusion(self) -> str:
        """What is printed below the table of the jobs."""


@dataclass
class Running:
    """A started job. sent: the last signal that it was sent; pruned: why a search has ended it."""

    job: Job
    process: Process
    sent: int | None = None
    pruned: str | None = None

    def send(self, number: int) -> None:
        """Sends it a signal, unless that was the last one."""
        if self.sent != number and self.process.send(number):
            self.sent = number


class Jobs:
    """Runs the jobs of a sweep.

    folder: the sweep's. command: what stands before the overrides of a job.
    """

    def __init__(self, folder: Path, plan: Plan, settings: Sweep, command: Sequence[str], launcher: Launcher):
        self._folder, self._plan, self._settings = folder, plan, settings
        self._command, self._launcher = list(command), launcher
        self._running: list[Running] = []
        self._done = 0
        self._signaled: list[int] = []  # the signals that the sweep itself was sent
        self._counter = ""  # what the last line says
        self._rejected = False  # no further job is started

    def run(self, source: Source) -> int | None:
        """Runs all jobs of the source to their end; returns the signal that ended the sweep early, if one did."""
        with self._signals():
            try:
                self._start(source)
                while self._running:
                    time.sleep(POLL)
                    self._forward_signals()
                    self._collect(source)
                    self._start(source)
                    self._show_counter(source.total)
            finally:  # nothing is left behind by an error of the sweep itself, such as a full disk
                self._end_running()
        return self._signaled[0] if self._signaled else None

    def _end_running(self) -> None:
        for running in self._running:
            running.send(signal.SIGTERM)
        while any(running.process.poll() is None for running in self._running):
            time.sleep(POLL)

    def _forward_signals(self) -> None:
        """A signal to the sweep asks its jobs to save and end; a second one kills them."""
        if self._signaled:
            first = self._signaled[0] if self._signaled[0] in SIGNALS else signal.SIGTERM
            for running in self._running:
                running.send(first if len(self._signaled) == 1 else signal.SIGKILL)

    def _start(self, source: Source) -> None:
        """Starts jobs until as many run as are to run at once."""
        while len(self._running) < self._settings.jobs and not self._rejected and not self._signaled:
            if (job := source.next()) is None:
                return
            folder = self._folder / str(job.number)
            if (found := read_one(folder, job)).ended or found.state == "running":  # since the sweep was read
                print_line(f"job {job.number} is {found.state} already, and left alone")
                source.ended(found)
                continue
            process = self._launcher.start(folder, [*self._command, *_arguments(job, folder)])
            self._running.append(Running(job, process))
            if process.id is not None:
                self._plan.cluster = self._settings.slurm.cluster
                self._plan.submitted[str(job.number)] = process.id
                self._plan.write(self._folder)

    def _collect(self, source: Source) -> None:
        """Takes in the jobs that have ended, and ends those that the source prunes."""
        for running in list(self._running):
            if (code := running.process.poll()) is None:
                _prune(running, source)
                continue
            self._running.remove(running)
            self._done += 1
            result = record_end(self._folder / str(running.job.number), running.job, code, running.pruned)
            self._report(result)
            source.ended(result)
            if result.state == "rejected" and not self._settings.keep_going and not self._rejected:
                self._rejected = True
                print_line("no further job is started, since what is wrong with one is likely wrong with the next; "
                    "sweep.keep_going=true starts them")  # fmt: skip

    def _report(self, result: Result) -> None:
        objective = "" if result.objective is None else f" {result.objective:.4f}"
        reason = "" if result.reason is None or result.state == "finished" else f": {result.reason}"
        clear = f"\r{'':<40}\r" if self._counter else ""
        self._counter = ""
        print_line(f"{clear}job {result.job.number} {result.state}{objective}{reason}  ({result.job.point})")

    def _show_counter(self, total: int) -> None:
        """On a terminal, a last line that is replaced whenever it changes."""
        text = f"{self._done} of {total} ended, {len(self._running)} running" if self._running else ""
        if sys.stdout.isatty() and text != self._counter:
            self._counter = text
            print(f"\r{text:<40}\r", end="", flush=True)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Signals that ask for an end are noted in the block, that of a closed terminal too."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, frame: FrameType | None) -> None:
            self._signaled.append(number)

        earlier = {number: signal.signal(number, note) for number in (*SIGNALS, signal.SIGHUP)}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)


def _prune(running: Running, source: Source) -> None:
    """Asks a job to end early if the source says so."""
    if running.pruned is None:
        running.pruned = source.watch(running.job)
        if running.pruned is not None:
            running.send(signal.SIGTERM)


def _arguments(job: Job, folder: Path) -> list[str]:
    """The arguments of a job: interrupted and killed jobs are resumed, all others start.

    What an earlier attempt left in the folder of a job that starts is kept, under another name.
    """
    if (folder / CONFIG_FILE).is_file() and actual_state(folder) in ("interrupted", "killed"):
        return [f"resume={quote_override(str(folder))}"]
    if folder.exists():
        state = actual_state(folder) or "incomplete"
        names = (folder.with_name(f"{folder.name}_{state}_{number}") for number in itertools.count(1))
        folder.rename(next(name for name in names if not name.exists()))
    return [*job.overrides, f"hydra.run.dir={quote_override(str(folder))}"]


def record_end(folder: Path, job: Job, code: int, pruned: str | None) -> Result:
    """Writes into the status of a job how it ended, where it could not do so itself, or was pruned; its result.

    A job that could not be resumed stays as it was, for the next time, and its result says that it was rejected.
    """
    said = _last_line(job_output_path(folder)) or f"exit status {code}"
    if (state := actual_state(folder)) in (None, "killed"):
        if code < 0:
            change_status(folder, state="killed", reason=signal.Signals(-code).name)
        elif state is None or code != EXIT_USER_ERROR:
            change_status(folder, state="rejected" if code == EXIT_USER_ERROR else "failed", reason=said)
    elif state == "interrupted" and pruned is not None:
        change_status(folder, state="pruned", reason=pruned)
    result = read_one(folder, job)
    refused = code == EXIT_USER_ERROR and result.state in ("interrupted", "killed")
    return replace(result, state="rejected", objective=None, reason=said) if refused else result


def _last_line(output: Path) -> str | None:
    try:
        lines = output.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return None
    return next((line.removeprefix("error: ") for line in reversed(lines) if line.strip()), None)
