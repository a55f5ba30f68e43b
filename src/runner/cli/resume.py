"""`resume=`: which run goes on, and with which configuration."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from runner.compose import checked, load
from runner.config import Config, Project, flatten, incompatible_keys
from runner.errors import UserError
from runner.runs.run import SAVED, actual_state, read_status

LATEST = Path("outputs") / "latest"
HYDRAS = ("hydra.verbose", "hydra.job_logging", "hydra/job_logging")  # what of Hydra's own may be chosen anew


def asked(overrides: Sequence[Override], project: Project[Any]) -> str | None:
    """The value of `resume=` on the command line."""
    found = [override for override in overrides if override.key_or_group == "resume"]
    for override in found:
        _check_form(override, project)
    return None if not found or (value := found[-1].value()) is None else str(value)


def folder_of(name: str) -> Path:
    """The folder of the run that is meant; raises UserError if there is none that can go on."""
    folder = LATEST if name == "latest" else Path(name)
    shown = f"resume={name}"
    if not folder.is_dir():
        raise UserError(f"{shown}: {'not the folder of a run' if folder.exists() else f'there is no {folder}'}")
    if not (folder / SAVED).is_file():
        jobs = sorted(path.parent.name for path in folder.glob(f"*/{SAVED}"))
        what = f"a sweep; name one of its jobs: {folder}/{jobs[0]}" if jobs else f"not a run, since it has no {SAVED}"
        raise UserError(f"{shown}: {what}")
    state = actual_state(folder)
    if state == "running":
        raise UserError(f"{shown}: process {read_status(folder).get('pid')} is training in it")
    if state == "duplicate":
        raise UserError(f"{shown}: it was not run, since it repeats job {read_status(folder).get('duplicate_of')}")
    return folder.resolve()


def changeable(project: Project[Any]) -> str:
    """The keys that a resumed run may have other values of, listed."""
    keys = {name for name, field in project.all_keys() if field.metadata.get("mutable_on_resume")}
    return ", ".join(sorted(keys - {"resume"}))


def settings(folder: Path, project: Project[Config], overrides: Sequence[Override]) -> Config:
    """The configuration of a run with what its continuation changes.

    Raises UserError, with the names, for overrides that would make it another run, and where nothing is left to do.
    """
    saved = load(folder, project)
    config = OmegaConf.structured(saved)
    chosen = [o for o in overrides if o.key_or_group != "resume" and not o.key_or_group.startswith("hydra")]
    for override in overrides:
        _check_form(override, project)
    ConfigLoaderImpl._apply_overrides_to_config(list(chosen), config)
    later = checked(config, project, [str(override.input_line) for override in chosen])
    values = flatten(later)
    if names := incompatible_keys(flatten(saved), later):
        given = ", ".join(f"{name}={values.get(name)}" for name in names)
        raise UserError(f"{given}: would make it another run; what can change is {changeable(project)}")
    if later.steps != saved.steps and (why := saved.fixed_steps()):
        raise UserError(f"steps={later.steps}: {why}")
    status = read_status(folder)
    if status.get("state") == "finished" and later.steps <= status.get("step", 0):
        hint = f"; steps={2 * status['step']} goes on" if saved.fixed_steps() is None else ""
        raise UserError(f"{folder.name}: has finished its {status['step']} steps{hint}")
    return later


def _check_form(override: Override, project: Project[Any]) -> None:
    line, name = str(override.input_line), override.key_or_group
    if override.is_sweep_override():
        raise UserError(f"{line}: one run goes on at a time; there is nothing to sweep over")
    if name.startswith("hydra"):
        if not name.startswith(HYDRAS):
            raise UserError(f"{line}: a run goes on in its own folder, as Hydra made it")
    elif name in project.groups or name in ("experiment", "debug") or "@" in line.partition("=")[0]:
        raise UserError(f"{line}: no option is chosen when a run goes on; what can change is {changeable(project)}")
    elif override.is_add() or override.is_force_add() or override.is_delete():
        raise UserError(f"{line}: nothing is added or taken away when a run goes on")
