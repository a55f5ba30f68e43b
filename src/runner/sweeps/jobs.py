"""Runs the jobs of a sweep, several at once: starts, watches and interrupts them, and prints a line for each."""

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
from runner.printable import format_loss, printable
from runner.runs.log import job_output_path
from runner.runs.run import CONFIG_FILE, SIGNALS
from runner.runs.status import actual_state, change_status
from runner.sweeps.results import Job, Plan, Result, read_one

POLL_SECONDS = 0.05


class Process(Protocol):
    """The process of a started job."""

    @property
    def id(self) -> str | None:
        """The job ID at the cluster; None for a process on this machine."""

    def poll(self) -> int | None:
        """The exit status, negative for a signal that ended the process; None while it runs."""

    def send(self, number: int) -> bool:
        """Sends a signal to the process; False if it cannot receive one yet."""


class Launcher(Protocol):
    """Starts jobs on this machine or on a cluster."""

    def start(self, folder: Path, command: Sequence[str]) -> Process:
        """Starts the command of the job with this folder."""


class JobSource(Protocol):
    """Supplies the jobs of a grid or of a search. total: the number of jobs to run."""

    total: int

    def next(self) -> Job | None:
        """The next job to start; None if there is none."""

    def prune_reason(self, job: Job) -> str | None:
        """The reason to end a running job early, as pruned; None to let it run."""

    def ended(self, result: Result) -> None:
        """Records the result of a job that has ended."""

    def conclusion(self) -> str:
        """The text to print below the table of the jobs."""


@dataclass
class RunningJob:
    """A started job. sent: the last signal that was sent to it. pruned: the reason why a search ended it early."""

    job: Job
    process: Process
    sent: int | None = None
    pruned: str | None = None

    def send(self, number: int) -> None:
        """Sends a signal to the job, unless it was the last one sent."""
        if self.sent != number and self.process.send(number):
            self.sent = number


class JobRunner:
    """Runs the jobs of a sweep.

    folder: the sweep's folder. command: the program and its flags, which precede the overrides of a job.
    """

    def __init__(self, folder: Path, plan: Plan, settings: Sweep, command: Sequence[str], launcher: Launcher):
        self._folder, self._plan, self._settings = folder, plan, settings
        self._command, self._launcher = list(command), launcher
        self._running: list[RunningJob] = []
        self._ended = 0
        self.reported: set[int] = set()  # the numbers of the jobs whose ends were printed
        self._received: list[int] = []  # signals sent to the sweep itself
        self._counter = ""  # the text of the terminal's last line
        self._rejected = False  # whether a job was rejected, after which no further job starts

    def run(self, source: JobSource) -> int | None:
        """Runs all jobs of the source until they end; returns the signal that ended the sweep early, if any."""
        with self._signals():
            try:
                self._start(source)
                while self._running:
                    time.sleep(POLL_SECONDS)
                    self._forward_signals()
                    self._collect(source)
                    self._start(source)
                    self._show_counter(source.total)
            finally:  # an error of the sweep itself, such as a full disk, leaves no job running
                self._end_running()
        return self._received[0] if self._received else None

    def _end_running(self) -> None:
        """Interrupts the running jobs, and waits for their ends."""
        for running in self._running:
            running.send(signal.SIGTERM)
        while any(running.process.poll() is None for running in self._running):
            time.sleep(POLL_SECONDS)

    def _forward_signals(self) -> None:
        """Passes the first signal that the sweep received to its jobs, which save and end; a second one kills them."""
        if self._received:
            first = self._received[0] if self._received[0] in SIGNALS else signal.SIGTERM
            for running in self._running:
                running.send(first if len(self._received) == 1 else signal.SIGKILL)

    def _start(self, source: JobSource) -> None:
        """Starts jobs until `sweep.jobs` of them run."""
        while len(self._running) < self._settings.jobs and not self._rejected and not self._received:
            if (job := source.next()) is None:
                return
            folder = self._folder / str(job.number)
            result = read_one(folder, job)
            if result.ended or result.state == "running":  # another process ran or resumed it in the meantime
                print_line(f"job {job.number} is already {result.state}, and is not started")
                source.ended(result)
                continue
            process = self._launcher.start(folder, [*self._command, *_arguments(job, folder)])
            self._running.append(RunningJob(job, process))
            if process.id is not None:
                self._plan.cluster = self._settings.slurm.cluster
                self._plan.submitted[str(job.number)] = process.id
                self._plan.write(self._folder)

    def _collect(self, source: JobSource) -> None:
        """Records the jobs that have ended, and ends those that the source prunes."""
        for running in list(self._running):
            if (code := running.process.poll()) is None:
                _prune(running, source)
                continue
            self._running.remove(running)
            self._ended += 1
            result = record_end(self._folder / str(running.job.number), running.job, code, running.pruned)
            self._report(result)
            source.ended(result)
            if result.state == "rejected" and not self._settings.keep_going and not self._rejected:
                self._rejected = True
                print_line("no further job starts, since the others are likely to be rejected too; "
                    "sweep.keep_going=true starts them")  # fmt: skip

    def _report(self, result: Result) -> None:
        """Prints a line with the state of a job that has ended."""
        objective = "" if result.objective is None else f", objective {format_loss(result.objective)}"
        reason = "" if result.reason is None or result.state == "finished" else f": {result.reason}"
        clear = f"\r{'':<40}\r" if self._counter else ""
        self._counter = ""
        point = f"  ({result.job.point})" if result.job.point else ""
        print_line(f"{clear}job {result.job.number} {result.state}{objective}{reason}{point}")
        self.reported.add(result.job.number)

    def _show_counter(self, total: int) -> None:
        """Shows the progress in the last line of a terminal."""
        text = f"{self._ended} of {total} ended, {len(self._running)} running" if self._running else ""
        if sys.stdout.isatty() and text != self._counter:
            self._counter = text
            print(f"\r{text:<40}\r", end="", flush=True)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Collects the signals that ask for an end in the block; SIGHUP, sent by a closed terminal, is one."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def collect(number: int, frame: FrameType | None) -> None:
            self._received.append(number)

        earlier = {number: signal.signal(number, collect) for number in (*SIGNALS, signal.SIGHUP)}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)


def _prune(running: RunningJob, source: JobSource) -> None:
    """Ends a job early if the source has a reason to prune it."""
    if running.pruned is None:
        running.pruned = source.prune_reason(running.job)
        if running.pruned is not None:
            running.send(signal.SIGTERM)


def _arguments(job: Job, folder: Path) -> list[str]:
    """The arguments of a job: an interrupted or killed job is resumed, any other starts from the beginning.

    The folder of an earlier attempt is renamed, not deleted.
    """
    if (folder / CONFIG_FILE).is_file() and actual_state(folder) in ("interrupted", "killed"):
        return [f"resume={quote_override(str(folder))}"]
    if folder.exists():
        state = actual_state(folder) or "incomplete"
        names = (folder.with_name(f"{folder.name}_{state}_{number}") for number in itertools.count(1))
        folder.rename(next(name for name in names if not name.exists()))
    return [*job.overrides, f"hydra.run.dir={quote_override(str(folder))}"]


def record_end(folder: Path, job: Job, code: int, pruned: str | None) -> Result:
    """Completes the status of a job that was killed, failed before it wrote one, or was pruned; returns its result.

    The status of a job that could not be resumed stays interrupted or killed, so that it can be resumed later; its
    result is rejected.
    """
    output = _last_line(job_output_path(folder)) or f"exit status {code}"
    if (state := actual_state(folder)) in (None, "killed"):
        if code < 0:
            change_status(folder, state="killed", reason=signal.Signals(-code).name)
        elif state is None or code != EXIT_USER_ERROR:
            change_status(folder, state="rejected" if code == EXIT_USER_ERROR else "failed", reason=output)
    elif state == "interrupted" and pruned is not None:
        change_status(folder, state="pruned", reason=pruned)
    result = read_one(folder, job)
    refused = code == EXIT_USER_ERROR and result.state in ("interrupted", "killed")
    return replace(result, state="rejected", objective=None, reason=printable(output, keep="")) if refused else result


def _last_line(path: Path) -> str | None:
    """The last line of a job's output that is not empty."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return None
    return next((line.removeprefix("error: ") for line in reversed(lines) if line.strip()), None)
