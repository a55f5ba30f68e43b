"""`resume=RUN`: finds the run and its configuration, and executes it without `@hydra.main`."""

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
from runner.config import Config, Project, expand_home, flatten, incompatible_keys, resolve_paths
from runner.errors import UserError, print_line, quote_path
from runner.runs import log
from runner.runs.run import check_run
from runner.runs.status import read_status
from runner.sweeps.results import relative_path, state_of

LATEST = Path("outputs") / "latest"


def requested_run(overrides: Sequence[Override]) -> str | None:
    """The value of `resume=` on the command line; None without one."""
    given = [override for override in overrides if override.key_or_group == "resume"]
    for override in given:
        if override.is_sweep_override():
            raise UserError(f"{override.input_line}: one run is resumed at a time")
    return None if not given or (value := given[-1].value()) is None else str(value)


def resume(project: Project[Any], name: str, overrides: Sequence[Override], args: Namespace) -> int:
    """Resumes a run with its saved configuration, changed by the allowed overrides; returns its exit status.

    Raises UserError, before anything is written, for a run that cannot be resumed and for any other override.
    """
    if args.multirun or args.info or args.config_name:
        flag = "--multirun" if args.multirun else "--info" if args.info else "--config-name"
        raise UserError(f"resume={name}: cannot be combined with {flag}")
    folder = folder_of(name)
    settings = resumed_settings(folder, project, overrides)
    resolve_paths(settings, Path.cwd())
    if args.cfg:
        print_line(OmegaConf.to_yaml(OmegaConf.structured(settings)).rstrip())
        return 0
    _set_hydra_config(folder)
    log.configure(folder)
    execute(project, settings, folder, resumed=True)
    return 0


def folder_of(name: str) -> Path:
    """The folder of a run, by its path or `latest`; raises UserError unless it can be resumed."""
    folder = LATEST if name == "latest" else expand_home(name)
    setting = f"resume={name}"
    if not folder.is_dir():
        raise UserError(
            f"{setting}: {'not the folder of a run' if folder.exists() else f'there is no folder {folder}'}"
        )
    try:
        check_run(folder)
    except UserError as error:
        raise UserError(f"{setting}: {str(error).removeprefix(f'{folder}: ')}") from None
    if (state := state_of(folder.resolve())) == "running":
        raise UserError(f"{setting}: process {read_status(folder).get('pid')} is training in it")
    if state == "duplicate":
        raise UserError(
            f"{setting}: it was not run, since it is a duplicate of job {read_status(folder).get('duplicate_of')}"
        )
    return folder.resolve()


def resumed_settings(folder: Path, project: Project[Config], overrides: Sequence[Override]) -> Config:
    """The saved configuration of a run, changed by the overrides.

    Raises UserError, with the keys, for values that must not change on resume, and if the run has finished its steps.
    """
    saved = load(folder, project)
    config = OmegaConf.structured(saved)
    changes = [override for override in overrides if override.key_or_group != "resume"]
    for override in changes:
        _check_form(override, project)
        OmegaConf.update(config, override.key_or_group, override.value())
    later = checked(config, project, [str(override.input_line) for override in changes])
    values = flatten(later)  # with paths as they were written, for the messages
    resolve_paths(later, Path.cwd())
    if names := incompatible_keys(flatten(saved), later):
        given = ", ".join(f"{name}={values.get(name)}" for name in names)
        best = folder / "checkpoints" / "best.pt"
        remedy = f"; init_from={quote_path(relative_path(best))} starts one from its weights" if best.is_file() else ""
        raise UserError(f"{given}: would make it another run{remedy}; what can change is {mutable_keys(project)}")
    if later.steps != saved.steps and (why := saved.fixed_steps()):
        raise UserError(f"steps={later.steps}: {why}")
    status = read_status(folder)
    if status.get("state") == "finished" and later.steps <= status.get("step", 0):
        hint = f"; add steps={2 * status['step']} to train it longer" if saved.fixed_steps() is None else ""
        raise UserError(f"{folder.name}: the run has finished its {status['step']} steps{hint}")
    return later


def mutable_keys(project: Project[Any]) -> str:
    """The keys whose values may change on resume, separated by commas; `log.*` where all keys below `log` may."""
    fields = {name: bool(field.metadata.get("mutable_on_resume")) for name, field in project.all_keys()}
    nodes = {name.rpartition(".")[0] for name in fields} - {""}
    whole = {node for node in nodes if all(may for name, may in fields.items() if name.startswith(f"{node}."))}
    keys = {f"{node}.*" if (node := name.rpartition(".")[0]) in whole else name for name, may in fields.items() if may}
    return ", ".join(sorted(keys - {"resume"}))


def _check_form(override: Override, project: Project[Any]) -> None:
    """Raises UserError unless an override of a resumed run gives one value to one existing key."""
    line, name = str(override.input_line), override.key_or_group
    allowed = f"what can change is {mutable_keys(project)}"
    if override.is_sweep_override():
        raise UserError(f"{line}: one run is resumed at a time")
    if name.startswith("hydra"):
        raise UserError(f"{line}: a run is resumed in its own folder, and not started by Hydra; {allowed}")
    if name in project.groups or name in ("experiment", "debug") or "@" in line.partition("=")[0]:
        raise UserError(f"{line}: another option cannot be chosen when a run is resumed; {allowed}")
    if override.is_add() or override.is_force_add() or override.is_delete():
        raise UserError(f"{line}: a key cannot be added or deleted when a run is resumed; {allowed}")


def _set_hydra_config(folder: Path) -> None:
    """Sets what `HydraConfig.get()` returns in a resumed run: the values of its first start, with its present folder.

    Does nothing for a run that Hydra did not start.
    """
    path = folder / ".hydra" / "hydra.yaml"
    if not path.is_file():
        return
    schema = OmegaConf.structured(HydraConf)
    OmegaConf.set_struct(schema, False)  # Hydra's own files have keys that its schema lacks
    config = OmegaConf.create({"hydra": OmegaConf.merge(schema, read_yaml(path).get("hydra", {}))})
    OmegaConf.update(config, "hydra.runtime.output_dir", str(folder))
    HydraConfig.instance().set_config(config)
