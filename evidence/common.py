"""Helpers of the scripts in evidence/: configurations with evidence/conf, a run's steps, runs in processes."""

import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from gradclip import ClipReport
from runner.errors import quote_override
from runner.runs.run import Run, RunOutcome
from runner.runs.status import read_status
from runner.sweeps.results import ENDED
from runner.tracking.tracker import Tracker
from trainer import project
from trainer.config import Train
from trainer.loop import take_step, train
from trainer.optimizers import set_lr
from trainer.run import execute_in_folder
from trainer.state import TrainState, build

CONF = Path(__file__).parent / "conf"
SEARCHPATH = f"hydra.searchpath=[{quote_override(f'file://{CONF}')}]"  # the override that adds it to conf/
SEEDS = (1, 2, 3)  # of every measurement that depends on random numbers

Key = TypeVar("Key")
Result = TypeVar("Result")


def compose(*overrides: str) -> Train:
    """Composes a configuration, in which the experiments of evidence/conf can be chosen, too."""
    return project.compose(SEARCHPATH, *overrides)


class Step(NamedTuple):
    """One step of a run. number: counted from 1. loss: 0-d."""

    number: int
    state: TrainState
    loss: Tensor
    report: ClipReport


def run_steps(config: Train) -> Iterator[Step]:
    """Yields the steps of a run without a folder; neither divergence nor a non-finite gradient ends it."""
    config.clip.nonfinite = "keep"
    state = build(config)
    state.model.train()
    for number, batch in zip(range(1, config.steps + 1), state.data.batches(0), strict=False):
        set_lr(state.optimizer, state.lr_at(number))
        loss, report = take_step(state, batch, check=False)
        yield Step(number, state, loss, report)


def status_of(folder: Path, *overrides: str) -> dict[str, Any]:
    """The status.json of a run with these overrides; the run is trained first unless it has ended already.

    Exits the script if the run is interrupted.
    """
    if read_status(folder).get("state") not in ENDED:
        outcome = execute_in_folder(compose(*overrides), folder)
        if outcome.interrupted:
            sys.exit(outcome.code)
    return read_status(folder)


def train_in_folder(state: TrainState, folder: Path) -> RunOutcome:
    """Trains a built state to its end, recorded in a folder like any run."""
    run = Run(folder, state.config.steps)
    with run.recorded():
        tracker = Tracker(folder, "", state.data.facts)
        try:
            train(state, run, tracker)
        finally:
            tracker.close()
    return run.outcome()


def in_processes(work: Callable[[Key], Result], keys: Sequence[Key], processes: int = 2) -> list[Result]:
    """Runs independent jobs in a pool of processes and returns their results. processes: how many run at a time."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        return list(pool.map(work, keys))
