"""Training, and reading runs, from Python: `train` and `load`. Imports torch when they are called."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer.config import Train
    from trainer.state import TrainState


@dataclass(frozen=True)
class Result:
    """How a run ended.

    state: finished, diverged or interrupted. objective: the lowest validation loss, None without a finite one. reason:
    why it did not finish; None if it did. folder: the run's folder.
    """

    state: str
    objective: float | None
    reason: str | None
    folder: Path

    @property
    def metrics(self) -> list[dict[str, float]]:
        """The lines of metrics.jsonl: the scalars of each logged step and of each evaluation, with the step."""
        from runner.tracking.metrics import METRICS_FILE

        text = (self.folder / METRICS_FILE).read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]


def train(overrides: Sequence[str] | Train = (), folder: str | Path | None = None) -> Result:
    """Trains a run, as `python train.py` with these overrides does, and returns how it ended.

    overrides: a list of those of a command line, or a configuration, which is checked again and not changed. folder:
    the run's folder; by default a new one in outputs/runs of the working directory. Logging, signal handlers, the
    random state, the filters of warnings and torch's global settings are afterwards what they were. SIGINT stops the
    run after its step, as on a command line.

    Raises UserError for a mistake in the configuration, for an override that only a command line can follow, and if the
    folder holds a run already or cannot be created. Raises TypeError for overrides of another type.
    """
    from runner.compose import new_run_name
    from runner.config import resolve_paths
    from runner.errors import UserError
    from runner.report.commands import write_overrides
    from runner.runs import log
    from runner.runs.run import Run, check_new, remove_rejected, save_config
    from trainer.project import PROJECT

    config = _checked(overrides)
    resolve_paths(config, Path.cwd())
    chosen = Path(folder or Path("outputs") / "runs" / new_run_name()).absolute()
    try:
        check_new("folder", str(chosen), None)
        chosen.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"folder={chosen}: cannot be created: {error.strerror}") from None
    with log.configured(chosen), _unchanged_settings():
        run = Run(chosen, config.steps, latest=True)
        save_config(config, chosen)
        if isinstance(overrides, Sequence):
            write_overrides(chosen, list(map(str, overrides)))
        try:
            with run.recorded():
                PROJECT.execute(config, run)
        except UserError:
            if not run.begun:
                remove_rejected(chosen, ".hydra")
            raise
    status = run.status
    return Result(run.outcome().state, status["objective"], status["reason"], chosen)


def _checked(overrides: Sequence[str] | Train) -> Train:
    """A new configuration of a single new run. Raises what `train` raises for its overrides."""
    from omegaconf import OmegaConf

    from runner.compose import checked
    from runner.errors import UserError, as_user_errors
    from runner.runs.run import resume_command
    from trainer.config import Train
    from trainer.project import PROJECT, compose

    if isinstance(overrides, Train):
        with as_user_errors(PROJECT, []):
            config = checked(OmegaConf.structured(overrides), PROJECT)
    elif isinstance(overrides, Sequence) and not isinstance(overrides, str | bytes):
        given = list(map(str, overrides))
        _check_single_run(given)
        with as_user_errors(PROJECT, given):
            config = compose(*given)
    else:
        kind = type(overrides).__name__
        raise TypeError(f"overrides: must be a list such as ['clip=norm', 'steps=10'], or a configuration, not {kind}")
    if config.resume is not None:
        command = resume_command(Path(config.resume))
        raise UserError(f"resume={config.resume}: a new run is started here; the command line resumes one: {command}")
    return config


def _check_single_run(overrides: Sequence[str]) -> None:
    """Raises UserError for an override that has an effect on a command line only."""
    from runner.errors import UserError

    for override in overrides:
        key = override.strip(" +~").partition("=")[0].strip().replace("/", ".")
        if key.startswith(("-", "hydra.sweep")) or key.split(".")[0] == "sweep":
            raise UserError(f"{override}: one run is started here; a sweep starts on the command line: train.py -m")
        if key == "hydra.run.dir":
            raise UserError(f"{override}: the run's folder is given by the argument folder")
        if key.split(".")[0] == "hydra" and key != "hydra.searchpath":
            raise UserError(f"{override}: has an effect on the command line only; leave this out")


def load(
    run: str | Path | Result, checkpoint: str | int | Path = "best", data_path: str | Path | None = None
) -> TrainState:
    """A run's configuration, model and data, with the weights of a checkpoint, in evaluation mode.

    `trainer.evaluate.evaluate` measures the state that is returned.
    `trainer.evaluate.sample` samples from it.
    run: its folder, or what `train` returned. checkpoint: best, last, a step, or a file. data_path: the data's new
    path, if its file has moved since the run.
    Raises UserError if the run, the checkpoint or the data is missing, or if the data has changed since the run.
    """
    from runner.errors import UserError
    from runner.runs import checkpoint as checkpoints
    from trainer.project import load as load_config
    from trainer.state import build
    from trainer.weights import load_weights

    folder = run.folder if isinstance(run, Result) else Path(run)
    config = load_config(folder)
    if data_path is not None:
        if not hasattr(config.data, "path"):
            raise UserError(f"{data_path}: data={config.data.name} reads no file")
        config.data.path = str(data_path)
    with _unchanged_settings():
        state = build(config)
    path = checkpoints.find(folder, str(checkpoint))
    content = checkpoints.load(path)
    state.check_data(content, path)
    load_weights(state.model, path)
    state.step = content["step"]
    state.model.eval()
    return state


@contextmanager
def _unchanged_settings() -> Iterator[None]:
    """Restores the random state, the filters of warnings and torch's global settings after the block."""
    import torch

    from trainer.device import CUBLAS_VARIABLE
    from trainer.randomness import rng_state, set_rng_state

    random, threads = rng_state(), torch.get_num_threads()
    mode, benchmark = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    cublas = os.environ.get(CUBLAS_VARIABLE)
    try:
        with warnings.catch_warnings():
            yield
    finally:
        os.environ.pop(CUBLAS_VARIABLE, None)
        if cublas is not None:
            os.environ[CUBLAS_VARIABLE] = cublas
        set_rng_state(random)
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(mode)
        torch.backends.cudnn.benchmark = benchmark
