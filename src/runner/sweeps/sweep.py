"""`-m`: a sweep, from its arguments to its exit status. Every job is a child process."""

import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from runner import config as schemas
from runner.compose import Composer
from runner.config import expand_home
from runner.errors import UserError, print_line, quote_override
from runner.runs.run import check_creatable, update_latest_symlink
from runner.runs.status import change_status
from runner.sweeps import grid, slurm
from runner.sweeps.grid import Points
from runner.sweeps.jobs import Jobs, Launcher, Source
from runner.sweeps.local import LocalLauncher
from runner.sweeps.results import ENDED, PLAN, Job, Plan, Result, columns, read, read_plan, relative_path, table
from runner.sweeps.space import Axis, axes

LOCK = ".lock"
LATEST = Path("outputs") / "latest"


@dataclass
class Sweep:
    """A sweep whose every point was checked. settings: the keys under `sweep`."""

    folder: Path
    plan: Plan
    settings: schemas.Sweep
    axes: list[Axis]
    points: Points
    composer: Composer[Any]

    @property
    def results(self) -> list[Result]:
        return read(self.folder, self.plan)

    def to_run(self) -> list[Job]:
        """The jobs that have no result, and that no process runs and no cluster has; duplicates never run."""
        left = [result.job for result in self.results if not result.ended and result.state not in ("running", "queued")]
        return [job for job in left if job.duplicate_of is None]


def is_requested(multirun: bool, overrides: Sequence[Override]) -> bool:
    """Whether the command line asks for a sweep: by -m, or by `sweep.resume=`."""
    return multirun or any(o.key_or_group == "sweep.resume" and o.value() is not None for o in overrides)


def main(composer: Composer[Any], arguments: list[str]) -> int:
    """Plans and runs a sweep, or resumes one; returns its exit status.

    Raises UserError, before anything is created, for the first point that is wrong.
    """
    resumed = [override for override in composer.parse(arguments) if override.key_or_group == "sweep.resume"]
    if wrong := next((override for override in resumed if override.is_sweep_override()), None):
        raise UserError(f"{wrong.input_line}: one sweep is resumed at a time")
    others = [each for each in arguments if each not in {override.input_line for override in resumed}]
    name = resumed[-1].value() if resumed else None
    sweep = new(composer, others) if name is None else unfinished(composer, str(name), others)
    if sweep.settings.dry_run:
        print(dry_run(sweep))
        return 0
    if sweep.settings.launcher == "slurm":
        slurm.require(sweep.settings.slurm.cluster)
    return run(sweep)


def new(composer: Composer[Any], arguments: list[str]) -> Sweep:
    """A sweep that no process has started: its points are composed and checked."""
    sweep = _checked(composer, arguments, None)
    check_creatable("hydra.sweep.dir", relative_path(sweep.folder))
    if (sweep.folder / PLAN).exists():
        raise UserError(f"hydra.sweep.dir={relative_path(sweep.folder)}: holds a sweep already")
    if taken := next((job for job in sweep.plan.jobs if (sweep.folder / str(job.number)).exists()), None):
        raise UserError(
            f"hydra.sweep.dir={relative_path(sweep.folder)}: {taken.number}, the folder of a job, is there already"
        )
    return sweep


def unfinished(composer: Composer[Any], name: str, arguments: list[str]) -> Sweep:
    """A sweep that was planned earlier. Its points are the same; other `sweep` settings may be given."""
    folder = (LATEST if name == "latest" else expand_home(name)).resolve()  # outputs/latest will point to it
    if (plan := read_plan(folder)) is None:
        raise UserError(f"sweep.resume={name}: not the folder of a sweep; it has no {PLAN} that can be read")
    if wrong := next(
        (each for each in arguments if not each.startswith("sweep.") or each.startswith("sweep.method")), None
    ):
        raise UserError(
            f"{wrong}: the jobs stay as {folder / PLAN} has them; a resumed sweep takes only keys under sweep"
        )
    changed = {each.partition("=")[0] for each in arguments}
    kept = [each for each in plan.arguments if each.partition("=")[0] not in changed]
    sweep = _checked(Composer(composer.project, plan.config_name), [*kept, *arguments], folder)
    if plan.method == "grid" and [job.config for job in plan.jobs] != [job.config for job in sweep.plan.jobs]:
        raise UserError(f"sweep.resume={folder}: conf/ or the code has changed since it was planned, and not all jobs "
                        "would be the same; start a new sweep")  # fmt: skip
    plan.arguments = sweep.plan.arguments  # with the settings as they are now, for the next time
    sweep.plan = plan
    return sweep


def _checked(composer: Composer[Any], arguments: list[str], folder: Path | None) -> Sweep:
    """Composes and checks every point of a grid, and the corners of a search. folder: that of an earlier sweep."""
    space = axes(composer, arguments)
    configurations = Points(composer, space)
    named = {axis.key for axis in space}
    if params := _params(configurations, named):
        space = axes(composer, [*params, *arguments])
        configurations = Points(composer, space)
    _check_subdir(configurations.first)
    settings = configurations.settings(space)
    given = [axis.line for axis in space[len(params) :]]  # the arguments, with absolute paths
    if settings.method == "optuna":
        from runner.sweeps import search

        plan = search.plan(composer, space, configurations, given)
    else:
        plan = grid.plan(composer, space, configurations, given)
    folder = folder or Path(configurations.first.hydra.sweep.dir).absolute()
    return Sweep(folder, plan, settings, space, configurations, composer)


def _params(configurations: Points, given: set[str]) -> list[str]:
    """The swept values in a file of conf/, under Hydra's own key for them, without those of the command line."""
    params, *others = (config.hydra.sweeper.get("params") or {} for config in configurations.compositions)
    if any(other != params for other in others):
        raise UserError("hydra.sweeper.params: is not the same for all points; sweep over one such file at a time")
    return [f"{key}={value}" for key, value in params.items() if key not in given]


def _check_subdir(config: DictConfig) -> None:
    subdir = OmegaConf.to_container(config.hydra.sweep)["subdir"]  # type: ignore[index, call-overload]
    if subdir != "${hydra.job.num}":
        raise UserError(f"hydra.sweep.subdir={subdir}: a job's folder is its number; leave this out")


def dry_run(sweep: Sweep) -> str:
    """The jobs, their folders, and which would not run."""
    states = {result.job.number: result.state for result in sweep.results}
    run = sweep.to_run()
    rows = [("job", "would run", "point", "folder")]
    for job in sweep.plan.jobs:
        state = f"no, {states[job.number]}" if job not in run else "yes"
        will = f"no, duplicate of {job.duplicate_of}" if job.duplicate_of is not None else state
        rows.append((str(job.number), will, job.point, relative_path(sweep.folder / str(job.number))))
    lines = [*columns(rows), f"{len(sweep.plan.jobs)} jobs, of which {len(run)} would run"]
    if sweep.plan.method == "optuna":
        lines.append(f"a search proposes its jobs while it runs: {sweep.settings.trials} in all")
    return "\n".join(lines)


class Listed:
    """The jobs of a grid, in their order."""

    def __init__(self, jobs: Sequence[Job]):
        self.total = len(jobs)
        self._jobs = iter(jobs)

    def next(self) -> Job | None:
        return next(self._jobs, None)

    def watch(self, job: Job) -> str | None:
        return None

    def ended(self, result: Result) -> None:
        pass

    def conclusion(self) -> str:
        return ""


def run(sweep: Sweep) -> int:
    """Runs the jobs that have no result, prints how each ended, and returns the sweep's exit status.

    Raises UserError if another process is running this sweep.
    """
    command = _command(sweep)
    sweep.folder.mkdir(parents=True, exist_ok=True)
    with _locked(sweep.folder):
        sweep.plan.write(sweep.folder)
        for job in sweep.plan.jobs:
            if job.duplicate_of is not None:
                change_status(sweep.folder / str(job.number), state="duplicate", duplicate_of=job.duplicate_of)
        for result in sweep.results:
            if result.state in ("running", "queued"):
                print_line(f"job {result.job.number} is {result.state} already, and left alone")
        update_latest_symlink(sweep.folder)
        jobs = Jobs(sweep.folder, sweep.plan, sweep.settings, command, _launcher(sweep))
        source = _source(sweep)
        print_line(f"{source.total} jobs to run, {sweep.settings.jobs} at once, in {relative_path(sweep.folder)}")
        stopped = jobs.run(source)
        results = sweep.results
    print_line(f"\n{table(results)}{source.conclusion()}")
    again = shlex.join(["python", "train.py", f"sweep.resume={quote_override(relative_path(sweep.folder))}"])
    unfinished = any(not result.ended for result in results) or stopped is not None
    print_line(f"report: {shlex.join(['python', 'scripts/report.py', relative_path(sweep.folder)])}")
    print_line(f"sweep: {relative_path(sweep.folder)}" + (f"; to run what is left: {again}" if unfinished else ""))
    if stopped is not None:
        return 128 + stopped
    return int(any(result.state not in (*ENDED, "running", "queued") for result in results))


def _source(sweep: Sweep) -> Source:
    if sweep.plan.method == "grid":
        return Listed(sweep.to_run())
    from runner.sweeps.search import Search

    return Search(sweep)


def _command(sweep: Sweep) -> list[str]:
    """The program and its flags, which stand before the overrides of a job."""
    project, command = sweep.composer.project, sweep.settings.command
    program = [sys.executable, str(project.script)] if command is None else shlex.split(command)
    if not program or shutil.which(program[0]) is None:
        raise UserError(f"sweep.command={command}: there is no such program")
    return program if sweep.plan.config_name == "train" else [*program, "--config-name", sweep.plan.config_name]


def _launcher(sweep: Sweep) -> Launcher:
    if sweep.settings.launcher == "slurm":
        return slurm.SlurmLauncher(sweep.folder, sweep.settings.slurm)
    return LocalLauncher(sweep.settings.jobs)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process runs a sweep; the system drops the lock with the process, however it ends."""
    lock = FileLock(folder / LOCK)
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
