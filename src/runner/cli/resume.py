"""`resume=RUN`: which run is resumed, and with which configuration. Hydra's main function is not called for it."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from runner.cli.run import execute
from runner.compose import checked, load, read_yaml
from runner.config import Config, Project, flatten, incompatible_keys, resolve_paths
from runner.errors import UserError, say
from runner.runs import log
from runner.runs.run import SAVED
from runner.runs.status import read_status
from runner.sweeps.results import state_of

LATEST = Path("outputs") / "latest"


def requested_run(overrides: Sequence[Override]) -> str | None:
    """The value of `resume=` on the command line."""
    found = [override for override in overrides if override.key_or_group == "resume"]
    for override in found:
        if override.is_sweep_override():
            raise UserError(f"{override.input_line}: one run is resumed at a time")
    return None if not found or (value := found[-1].value()) is None else str(value)


def resume(project: Project[Any], name: str, overrides: Sequence[Override], args: Namespace) -> int:
    """Resumes a run with its saved configuration and the allowed overrides on top; returns its exit status.

    Raises UserError, before anything is written, for a run that cannot be resumed and for other overrides.
    """
    if args.multirun or args.info or args.config_name:
        flag = "--multirun" if args.multirun else "--info" if args.info else "--config-name"
        raise UserError(f"resume={name}: does not go with {flag}")
    folder = folder_of(name)
    settings = resumed_settings(folder, project, overrides)
    resolve_paths(settings, Path.cwd())
    if args.cfg:
        say(OmegaConf.to_yaml(OmegaConf.structured(settings)).rstrip())
        return 0
    _set_hydra_config(folder)
    log.configure(folder)
    execute(project, settings, folder, resumed=True)
    return 0


def folder_of(name: str) -> Path:
    """The folder of the run that is meant; raises UserError if there is none that can be resumed."""
    folder = LATEST if name == "latest" else Path(name)
    shown = f"resume={name}"
    if not folder.is_dir():
        raise UserError(f"{shown}: {'not the folder of a run' if folder.exists() else f'there is no {folder}'}")
    if not (folder / SAVED).is_file():
        jobs = sorted(path.parent.name for path in folder.glob(f"*/{SAVED}"))
        what = f"a sweep; name one of its jobs: {folder}/{jobs[0]}" if jobs else f"not a run, since it has no {SAVED}"
        raise UserError(f"{shown}: {what}")
    if (state := state_of(folder.resolve())) == "running":
        raise UserError(f"{shown}: process {read_status(folder).get('pid')} is training in it")
    if state == "duplicate":
        raise UserError(f"{shown}: it was not run, since it repeats job {read_status(folder).get('duplicate_of')}")
    return folder.resolve()


def resumed_settings(folder: Path, project: Project[Config], overrides: Sequence[Override]) -> Config:
    """The saved configuration of a run with the overrides on top.

    Raises UserError, with the names, for overrides of keys that are not mutable on resume, and where nothing is left
    to do.
    """
    saved = load(folder, project)
    config = OmegaConf.structured(saved)
    chosen = [override for override in overrides if override.key_or_group != "resume"]
    for override in chosen:
        _check_form(override, project)
        OmegaConf.update(config, override.key_or_group, override.value())
    later = checked(config, project, [str(override.input_line) for override in chosen])
    values = flatten(later)
    if names := incompatible_keys(flatten(saved), later):
        given = ", ".join(f"{name}={values.get(name)}" for name in names)
        raise UserError(f"{given}: would make it another run; what can change is {mutable_keys(project)}")
    if later.steps != saved.steps and (why := saved.fixed_steps()):
        raise UserError(f"steps={later.steps}: {why}")
    status = read_status(folder)
    if status.get("state") == "finished" and later.steps <= status.get("step", 0):
        hint = f"; steps={2 * status['step']} trains longer" if saved.fixed_steps() is None else ""
        raise UserError(f"{folder.name}: has finished its {status['step']} steps{hint}")
    return later


def mutable_keys(project: Project[Any]) -> str:
    """The keys that a resumed run may have other values of, listed."""
    keys = {name for name, field in project.all_keys() if field.metadata.get("mutable_on_resume")}
    return ", ".join(sorted(keys - {"resume"}))


def _check_form(override: Override, project: Project[Any]) -> None:
    line, name = str(override.input_line), override.key_or_group
    allowed = f"what can change is {mutable_keys(project)}"
    if override.is_sweep_override():
        raise UserError(f"{line}: one run is resumed at a time; there is nothing to sweep over")
    if name.startswith("hydra"):
        raise UserError(f"{line}: a run is resumed in its own folder, and not by Hydra; {allowed}")
    if name in project.groups or name in ("experiment", "debug") or "@" in line.partition("=")[0]:
        raise UserError(f"{line}: no option is chosen when a run is resumed; {allowed}")
    if override.is_add() or override.is_force_add() or override.is_delete():
        raise UserError(f"{line}: nothing is added or deleted when a run is resumed; {allowed}")


def _set_hydra_config(folder: Path) -> None:
    """What `HydraConfig.get()` answers in a resumed run: the values of its first start, with the folder of this one.

    Nothing is set for a run that Hydra did not start.
    """
    path = folder / ".hydra" / "hydra.yaml"
    if not path.is_file():
        return
    schema = OmegaConf.structured(HydraConf)
    OmegaConf.set_struct(schema, False)  # Hydra's own files have keys that its schema lacks
    config = OmegaConf.create({"hydra": OmegaConf.merge(schema, read_yaml(path).get("hydra", {}))})
    OmegaConf.update(config, "hydra.runtime.output_dir", str(folder))
    HydraConfig.instance().set_config(config)
