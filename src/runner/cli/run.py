"""Starts a new run or resumes one, from its checked configuration to its exit status."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from runner.compose import checked
from runner.config import Project, RunConfig, resolve_paths
from runner.errors import EXIT_FAILURE, UserError, exit_with_error
from runner.runs import lock, log
from runner.runs.files import is_unwritable
from runner.runs.run import Run, remove_rejected, resume_command, save_config
from runner.sweeps.results import swept_values


def run(project: Project[Any], config: DictConfig) -> None:
    """Starts a new run in the folder that Hydra created; called by the function decorated with `@hydra.main`."""
    job = HydraConfig.get()
    if job.job_logging.get("root") is None:  # hydra/job_logging=none, the default in conf/
        log.configure(Path(job.runtime.output_dir))
    settings = checked(config, project)
    resolve_paths(settings, Path(job.runtime.cwd))
    execute(project, settings, Path(job.runtime.output_dir))


def execute(project: Project[Any], settings: RunConfig, folder: Path, *, resumed: bool = False) -> None:
    """Starts or resumes a run in an existing folder. Ends the program unless the run finished.

    A user error that only building the run can find is answered in one line with exit status 2.
    """
    in_sweep = swept_values(folder)
    record = None
    try:
        lock.hold(folder)
        if not resumed:
            save_config(settings, folder)  # first, so that a run killed at any later moment can be resumed
        record = Run(folder, settings.steps, resumed=resumed, swept=in_sweep, latest=in_sweep is None)
        with record.recorded():
            project.execute(settings, record)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except UserError as error:
        if record is not None and not record.begun and in_sweep is None and not resumed:
            remove_rejected(folder, HydraConfig.get().output_subdir)
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        exit_with_error(str(error))
    except OSError as error:
        if not is_unwritable(error):
            raise
        exit_with_error(f"{error.filename}: {error.strerror}; to resume it: {resume_command(folder)}", EXIT_FAILURE)
    if code := record.outcome().code:
        sys.exit(code)
