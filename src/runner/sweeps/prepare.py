"""Prepares a sweep: every point is composed and checked before the first job starts, and nothing is written."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gradclip.errors import format_value
from runner.compose import Composer
from runner.config import Sweep, expand_home, flatten
from runner.errors import UserError
from runner.runs.run import CONFIG_FILE, check_creatable
from runner.sweeps import grid
from runner.sweeps.grid import Points
from runner.sweeps.results import PLAN_FILE, Job, Plan, Result, read, read_plan, relative_path
from runner.sweeps.space import Axis, axes

LATEST = Path("outputs") / "latest"
READ_WITH = {  # settings under `sweep` that are read only if another one has this value
    "trials": ("method", "optuna"),
    "hours": ("method", "optuna"),
    "slurm": ("launcher", "slurm"),
}


@dataclass
class PreparedSweep:
    """A sweep whose points have all been checked. settings: the keys under `sweep`."""

    folder: Path
    plan: Plan
    settings: Sweep
    axes: list[Axis]
    points: Points
    composer: Composer[Any]

    @property
    def results(self) -> list[Result]:
        """The result of every job so far."""
        return read(self.folder, self.plan)

    def to_run(self) -> list[Job]:
        """The jobs without a result that no process runs and no cluster has queued; duplicates never run."""
        unfinished = [
            result.job for result in self.results if not result.ended and result.state not in ("running", "queued")
        ]
        return [job for job in unfinished if job.duplicate_of is None]


def new(composer: Composer[Any], arguments: list[str]) -> PreparedSweep:
    """The sweep that a command line describes. Raises UserError for an invalid point and for a folder in use."""
    sweep = _checked(composer, arguments)
    check_creatable("hydra.sweep.dir", relative_path(sweep.folder))
    setting = f"hydra.sweep.dir={relative_path(sweep.folder)}"
    for file, kind in ((PLAN_FILE, "sweep"), (CONFIG_FILE, "run")):
        if (sweep.folder / file).exists():
            raise UserError(f"{setting}: holds a {kind} already")
    if existing := next((job for job in sweep.plan.jobs if (sweep.folder / str(job.number)).exists()), None):
        raise UserError(f"{setting}: holds the folder of a job already: {existing.number}")
    return sweep


def resumed(composer: Composer[Any], name: str, arguments: list[str]) -> PreparedSweep:
    """A sweep that was planned earlier, with the same points. arguments: new values of keys under `sweep`.

    Raises UserError if the points would not be the same, and for other arguments.
    """
    folder = (LATEST if name == "latest" else expand_home(name)).resolve()  # outputs/latest will point to it
    if (plan := read_plan(folder)) is None:
        raise UserError(f"sweep.resume={name}: not the folder of a sweep; it has no {PLAN_FILE} that can be read")
    for argument in arguments:
        if not argument.startswith("sweep.") or argument.startswith("sweep.method"):
            raise UserError(f"{argument}: the jobs stay as {folder / PLAN_FILE} has them; a resumed sweep takes only "
                            "keys under sweep")  # fmt: skip
    changed = {argument.partition("=")[0] for argument in arguments}
    kept = [argument for argument in plan.arguments if argument.partition("=")[0] not in changed]
    sweep = _checked(Composer(composer.project, plan.config_name), [*kept, *arguments], folder, changed)
    if plan.method == "grid" and [job.config for job in plan.jobs] != [job.config for job in sweep.plan.jobs]:
        raise UserError(f"sweep.resume={folder}: conf/ or the code has changed since it was planned, and not all jobs "
                        "would be the same; start a new sweep")  # fmt: skip
    plan.arguments = sweep.plan.arguments  # the next resume begins with the settings of this one
    sweep.plan = plan
    return sweep


def _checked(
    composer: Composer[Any], arguments: list[str], folder: Path | None = None, changed: Collection[str] | None = None
) -> PreparedSweep:
    """Composes and checks every point of a grid, and the corners of a search.

    folder: that of an earlier sweep. changed: the keys that a resumed sweep was given; None for a new sweep.
    """
    space = axes(composer, arguments)
    configurations = Points(composer, space)
    if params := _swept_in_files(configurations, {axis.key for axis in space}):
        space = axes(composer, [*params, *arguments])
        configurations = Points(composer, space)
    _check_subdir(configurations.compositions[0])
    settings = configurations.settings(space)
    _check_settings_are_read(settings, changed)
    with_absolute_paths = [axis.line for axis in space[len(params) :]]
    if settings.method == "optuna":
        from runner.sweeps import search

        plan = search.plan(composer, space, configurations, with_absolute_paths)
    else:
        plan = grid.plan(composer, space, configurations, with_absolute_paths)
    folder = folder or Path(configurations.folder(space)).absolute()
    if "${" in str(folder):
        raise UserError(f"{folder}: no job can run here, since Hydra reads ${{ in a folder's name as an interpolation")
    return PreparedSweep(folder, plan, settings, space, configurations, composer)


def _swept_in_files(configurations: Points, on_command_line: Collection[str]) -> list[str]:
    """The overrides that a file of conf/ sweeps, under Hydra's own key for them, without those of the command line."""
    params, *others = (config.hydra.sweeper.get("params") or {} for config in configurations.compositions)
    if any(other != params for other in others):
        raise UserError("hydra.sweeper.params: is not the same for all points; sweep over one such file at a time")
    return [f"{key}={value}" for key, value in params.items() if key not in on_command_line]


def _check_subdir(config: DictConfig) -> None:
    """Raises UserError unless the folder of a job is its number, as results are read from there."""
    subdir = OmegaConf.to_container(config.hydra.sweep)["subdir"]  # type: ignore[index, call-overload]
    if subdir != "${hydra.job.num}":
        raise UserError(f"hydra.sweep.subdir={subdir}: a job's folder is its number; leave this out")


def _check_settings_are_read(settings: Sweep, changed: Collection[str] | None) -> None:
    """Raises UserError for a setting, other than its default, that the method or the launcher does not read.

    changed: the keys to check; None: all. A resumed sweep may have another launcher than when it was planned.
    """
    defaults = flatten(Sweep())
    for key, value in flatten(settings).items():
        needed = READ_WITH.get(key.partition(".")[0])
        if needed is None or value == defaults[key] or (changed is not None and f"sweep.{key}" not in changed):
            continue
        name, required = needed
        if (actual := getattr(settings, name)) != required:
            raise UserError(f"sweep.{key}={format_value(value)}: has no effect with sweep.{name}={actual}")
