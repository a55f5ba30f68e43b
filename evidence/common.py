"""What the scripts of evidence/ share: configurations with evidence/conf, a run's steps, and runs in processes."""

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
SEEDS = (1, 2, 3)  # wherever chance plays a part

Key = TypeVar("Key")
Result = TypeVar("Result")


def compose(*overrides: str) -> Train:
    """The checked configuration for these overrides, among them the experiments of evidence/conf."""
    return project.compose(SEARCHPATH, *overrides)


class Step(NamedTuple):
    """One step of a run. number: 1 is the first. loss: 0-d."""

    number: int
    state: TrainState
    loss: Tensor
    report: ClipReport


def walk(config: Train) -> Iterator[Step]:
    """The steps of a run without a folder, which no divergence and no gradient that is not finite ends."""
    config.clip.nonfinite = "keep"
    state = build(config)
    state.model.train()
    for number, batch in zip(range(1, config.steps + 1), state.data.batches(0), strict=False):
        set_lr(state.optimizer, config.optimizer.lr * state.lr_factor(number))
        loss, report = take_step(state, batch, check=False)
        yield Step(number, state, loss, report)


def status_of(folder: Path, *overrides: str) -> dict[str, Any]:
    """How the run of these overrides ended, from its status.json; it is trained first unless it has ended already.

    An interruption ends the script too.
    """
    if read_status(folder).get("state") not in ENDED:
        outcome = execute_in_folder(compose(*overrides), folder)
        if outcome.interrupted:
            sys.exit(outcome.code)
    return read_status(folder)


def train_in_folder(state: TrainState, folder: Path) -> RunOutcome:
    """Takes all steps of a state that was built already, recorded in a folder as a run's are."""
    run = Run(folder, state.config.steps)
    with run.recorded():
        tracker = Tracker(folder, "", state.data.facts)
        try:
            train(state, run, tracker)
        finally:
            tracker.close()
    return run.outcome()


def in_processes(work: Callable[[Key], Result], keys: Sequence[Key], processes: int = 2) -> list[Result]:
    """The results of independent runs, each in a process of its own, so many at a time."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        return list(pool.map(work, keys))
