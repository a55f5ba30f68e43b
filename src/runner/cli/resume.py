"""`resume=`: which run goes on, and with which configuration."""

from collections.abc import Sequence
from pathlib import Path

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from runner.cli.compose import checked, load
from runner.runs.run import SAVED, actual_state, read_status
from trainer.config import EXTENDING, GROUPS, Constant, Mistake, Train, flat, turned

LATEST = Path("outputs") / "latest"
CHANGES = ", ".join(sorted(EXTENDING - {"resume"}))
HYDRAS = ("hydra.verbose", "hydra.job_logging", "hydra/job_logging")  # what of Hydra's own may be chosen anew


def asked(overrides: Sequence[Override]) -> str | None:
    """The value of `resume=` on the command line."""
    found = [override for override in overrides if override.key_or_group == "resume"]
    for override in found:
        _check_form(override)
    return None if not found or (value := found[-1].value()) is None else str(value)


def folder_of(name: str) -> Path:
    """The folder of the run that is meant; raises Mistake if there is none that can go on."""
    folder = LATEST if name == "latest" else Path(name)
    shown = f"resume={name}"
    if not folder.is_dir():
        raise Mistake(f"{shown}: {'not the folder of a run' if folder.exists() else f'there is no {folder}'}")
    if not (folder / SAVED).is_file():
        jobs = sorted(path.parent.name for path in folder.glob(f"*/{SAVED}"))
        what = f"a sweep; name one of its jobs: {folder}/{jobs[0]}" if jobs else f"not a run, since it has no {SAVED}"
        raise Mistake(f"{shown}: {what}")
    state = actual_state(folder)
    if state == "running":
        raise Mistake(f"{shown}: process {read_status(folder).get('pid')} is training in it")
    if state == "duplicate":
        raise Mistake(f"{shown}: it was not run, since it repeats job {read_status(folder).get('duplicate_of')}")
    return folder.resolve()


def settings(folder: Path, overrides: Sequence[Override]) -> Train:
    """The configuration of a run with what its continuation changes.

    Raises Mistake, with the names, for overrides that would make it another run, and where nothing is left to do.
    """
    saved = load(folder)
    config = OmegaConf.structured(saved)
    chosen = [o for o in overrides if o.key_or_group != "resume" and not o.key_or_group.startswith("hydra")]
    for override in overrides:
        _check_form(override)
    ConfigLoaderImpl._apply_overrides_to_config(list(chosen), config)
    later = checked(config, [str(override.input_line) for override in chosen])
    values = flat(later)
    if names := turned(flat(saved), values):
        given = ", ".join(f"{name}={values.get(name)}" for name in names)
        raise Mistake(f"{given}: would make it another run; what can change is {CHANGES}")
    if later.steps != saved.steps and not isinstance(saved.schedule, Constant):
        raise Mistake(
            f"steps={later.steps}: schedule={saved.schedule.name} spans all steps, so that every rate changes"
        )
    status = read_status(folder)
    if status.get("state") == "finished" and later.steps <= status.get("step", 0):
        hint = f"; steps={2 * status['step']} goes on" if isinstance(saved.schedule, Constant) else ""
        raise Mistake(f"{folder.name}: has finished its {status['step']} steps{hint}")
    return later


def _check_form(override: Override) -> None:
    line, name = str(override.input_line), override.key_or_group
    if override.is_sweep_override():
        raise Mistake(f"{line}: one run goes on at a time; there is nothing to sweep over")
    if name.startswith("hydra"):
        if not name.startswith(HYDRAS):
            raise Mistake(f"{line}: a run goes on in its own folder, as Hydra made it")
    elif name in GROUPS or name in ("experiment", "debug") or "@" in line.partition("=")[0]:
        raise Mistake(f"{line}: no option is chosen when a run goes on; what can change is {CHANGES}")
    elif override.is_add() or override.is_force_add() or override.is_delete():
        raise Mistake(f"{line}: nothing is added or taken away when a run goes on")
