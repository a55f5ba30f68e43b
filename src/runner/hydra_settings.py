"""Checks of Hydra's own keys, for values with which Hydra or the runner would fail while a run starts."""

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gradclip.errors import format_value
from runner.config import expand_home
from runner.errors import UserError
from runner.messages import REPLACED_HYDRA_GROUPS, replaced_hydra_group
from runner.runs.lock import LOCK_FILE
from runner.runs.log import LOG_FILE
from runner.runs.run import CONFIG_FILE
from runner.runs.status import STATUS_FILE

RUN_FILES = (CONFIG_FILE, STATUS_FILE, LOG_FILE, LOCK_FILE, "checkpoints", "metrics.jsonl")
LEVELS = logging.getLevelNamesMapping()


def check_hydra_settings(hydra: DictConfig, job_name: str) -> None:
    """Raises UserError, with the key and the value, for a setting of Hydra with which no run can start.

    hydra: Hydra's own node of a composed configuration. job_name: `hydra.job.name` unless it is set.
    """
    for group in REPLACED_HYDRA_GROUPS:
        if (choice := hydra.runtime.choices[group]) != "basic":  # Hydra's default
            raise UserError(replaced_hydra_group(f"{group}={choice}"))
    # Not resolved: folder names may have interpolations that only a started run can resolve.
    values: Any = OmegaConf.to_container(hydra, resolve=False)
    _check_folder("hydra.run.dir", values["run"]["dir"])
    _check_folder("hydra.sweep.dir", values["sweep"]["dir"])
    if values["job"]["chdir"]:
        raise UserError("hydra.job.chdir=true: a run does not change the working directory; leave this out")
    _check_verbose(values["verbose"])
    _check_output_subdir(hydra.output_subdir)
    _check_job_logging(values, job_name)


def _check_folder(key: str, name: str) -> None:
    """Raises UserError for a folder's name that begins with ~."""
    if name.startswith("~"):
        raise UserError(f"{key}={name}: Hydra does not expand ~; write {expand_home(name)}")


def _check_verbose(value: Any) -> None:
    """Raises UserError unless the value is one of those that Hydra's logging takes."""
    loggers = value if isinstance(value, list) else [value]
    if not isinstance(value, bool) and not all(isinstance(logger, str) for logger in loggers):
        raise UserError(f"hydra.verbose={format_value(value)}: must be true, false, or names of loggers: [trainer]")


def _check_output_subdir(name: str | None) -> None:
    """Raises UserError unless the folder is a new one in the run's own: a rejected run removes it again."""
    if name is not None and (Path(name).name != name or name in ("", "..", *RUN_FILES)):
        raise UserError(f"hydra.output_subdir={name}: must be null, or the name of a new folder in that of the run")


def _check_job_logging(hydra: dict[str, Any], job_name: str) -> None:
    """Raises UserError for a log that Hydra configures, not the runner, and that is invalid or not train.log."""
    root, name = hydra["job_logging"].get("root"), hydra["job"]["name"]
    if root is None:
        return
    if not isinstance(root, dict) or root.get("level", "INFO") not in LEVELS:
        raise UserError(f"hydra.job_logging.root: must have handlers and one of the levels {', '.join(LEVELS)}")
    if name != job_name:
        choice = hydra["runtime"]["choices"]["hydra/job_logging"]
        raise UserError(f"hydra.job.name={name}: with hydra/job_logging={choice} it names the log, which must be "
                        f"{job_name}.log; leave this out")  # fmt: skip
