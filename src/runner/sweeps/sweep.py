"""`-m`: a sweep, from its arguments to its exit status. Each job runs in a process of its own."""

import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.override_parser.types import Override

from runner.compose import Composer
from runner.errors import UserError, print_line, quote_override
from runner.printable import count_of
from runner.runs.run import update_latest_symlink
from runner.runs.status import change_status
from runner.sweeps import prepare, slurm
from runner.sweeps.jobs import JobRunner, JobSource, Launcher
from runner.sweeps.local import LocalLauncher
from runner.sweeps.prepare import PreparedSweep
from runner.sweeps.results import ENDED, Job, Result, columns, relative_path, shell_path, table

LOCK_FILE = ".lock"


def is_requested(multirun: bool, overrides: Sequence[Override]) -> bool:
    """Whether the command line asks for a sweep: by -m, or by `sweep.resume=`."""
    return multirun or any(o.key_or_group == "sweep.resume" and o.value() is not None for o in overrides)


def main(composer: Composer[Any], arguments: list[str]) -> int:
    """Plans and runs a sweep, or resumes one; returns its exit status.

    Raises UserError, before anything is created, for the first invalid point.
    """
    requests = [override for override in composer.parse(arguments) if override.key_or_group == "sweep.resume"]
    for override in requests:
        if override.is_sweep_override():
            raise UserError(f"{override.input_line}: one sweep is resumed at a time")
    others = [argument for argument in arguments if argument not in {override.input_line for override in requests}]
    name = requests[-1].value() if requests else None
    sweep = prepare.new(composer, others) if name is None else prepare.resumed(composer, str(name), others)
    if sweep.settings.dry_run:
        print(dry_run(sweep))
        return 0
    if sweep.settings.launcher == "slurm":
        slurm.require(sweep.settings.slurm.cluster)
    return run(sweep)


def dry_run(sweep: PreparedSweep) -> str:
    """A table of the jobs: whether each would run, its point and its folder."""
    states = {result.job.number: result.state for result in sweep.results}
    to_run = sweep.to_run()
    rows = [("job", "would run", "point", "folder")]
    for job in sweep.plan.jobs:
        reason = states[job.number] if job.duplicate_of is None else f"duplicate of {job.duplicate_of}"
        would_run = "yes" if job in to_run else f"no, {reason}"
        rows.append((str(job.number), would_run, job.point, shell_path(sweep.folder / str(job.number))))
    lines = [*columns(rows), f"{count_of(len(sweep.plan.jobs), 'job')}, of which {len(to_run)} would run"]
    if sweep.plan.method == "optuna":
        lines.append(f"a search proposes its jobs while it runs: {sweep.settings.trials} in all")
    return "\n".join(lines)


class GridSource:
    """The jobs of a grid, in their order."""

    def __init__(self, jobs: Sequence[Job]):
        self.total = len(jobs)
        self._jobs = iter(jobs)

    def next(self) -> Job | None:
        return next(self._jobs, None)

    def prune_reason(self, job: Job) -> str | None:
        return None

    def ended(self, result: Result) -> None:
        pass

    def conclusion(self) -> str:
        return ""


def run(sweep: PreparedSweep) -> int:
    """Runs the jobs without a result, prints how each ended, and returns the sweep's exit status.

    Raises UserError if another process is running this sweep.
    """
    command = _command(sweep)
    try:
        sweep.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"hydra.sweep.dir={relative_path(sweep.folder)}: cannot be created: {error.strerror}"
        ) from error
    with _lock(sweep.folder):
        sweep.plan.write(sweep.folder)
        for job in sweep.plan.jobs:
            if job.duplicate_of is not None:
                change_status(sweep.folder / str(job.number), state="duplicate", duplicate_of=job.duplicate_of)
        for result in sweep.results:
            if result.state in ("running", "queued"):
                print_line(f"job {result.job.number} is already {result.state}, and is not started")
        update_latest_symlink(sweep.folder)
        jobs = JobRunner(sweep.folder, sweep.plan, sweep.settings, command, _launcher(sweep))
        source = _source(sweep)
        number = f"{count_of(source.total, 'job')} to run" if source.total else "nothing left to run"
        print_line(f"{number}, {sweep.settings.jobs} at once, in {shell_path(sweep.folder)}")
        stopped = jobs.run(source)
        results = sweep.results
    print_line(f"\n{table(results, reported=jobs.reported)}{source.conclusion()}")
    resume = shlex.join(["python", "train.py", f"sweep.resume={quote_override(relative_path(sweep.folder))}"])
    unfinished = any(not result.ended for result in results) or stopped is not None
    print_line(f"report: {shlex.join(['python', 'scripts/report.py', relative_path(sweep.folder)])}")
    print_line(f"sweep: {shell_path(sweep.folder)}" + (f"; to resume it: {resume}" if unfinished else ""))
    if stopped is not None:
        return 128 + stopped
    return int(any(result.state not in (*ENDED, "running", "queued") for result in results))


def _source(sweep: PreparedSweep) -> JobSource:
    if sweep.plan.method == "grid":
        return GridSource(sweep.to_run())
    from runner.sweeps.search import Search

    return Search(sweep)


def _command(sweep: PreparedSweep) -> list[str]:
    """The program and its flags, which precede the overrides of a job."""
    project, command = sweep.composer.project, sweep.settings.command
    program = [sys.executable, str(project.script)] if command is None else shlex.split(command)
    if not program or shutil.which(program[0]) is None:
        raise UserError(f"sweep.command={command}: there is no such program")
    return program if sweep.plan.config_name == "train" else [*program, "--config-name", sweep.plan.config_name]


def _launcher(sweep: PreparedSweep) -> Launcher:
    if sweep.settings.launcher == "slurm":
        return slurm.SlurmLauncher(sweep.folder, sweep.settings.slurm)
    return LocalLauncher(sweep.settings.jobs)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Holds the sweep's lock in the block, which the system releases when the process ends, however it ends."""
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{relative_path(folder)}: another process is running this sweep") from None
    except NotImplementedError:  # a file system without locks
        pass
    try:
        yield
    finally:
        lock.release()
