"""The cost of an evaluation's image and histograms, compared with a training step of the same model."""

import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import NamedTuple

import torch

from evidence.common import compose
from evidence.pages import table
from runner.tracking.events import EVENT_FILES
from runner.tracking.tracker import Tracker
from trainer.loop import take_step
from trainer.state import build

SIZES = (128, 1000)  # of the hidden state
REPEATS = 9
STEPS = 64  # that the pictures show


class Cost(NamedTuple):
    """The costs of one model: seconds, the minimum of several repeats, and bytes of the event file."""

    weights: int
    step: float
    picture: tuple[float, float]
    histograms: tuple[float, float]


def measure() -> list[Cost]:
    """Measures the default model and a larger one."""
    return [_cost(size) for size in SIZES]


def _cost(size: int) -> Cost:
    state = build(compose(f"model.hidden={size}", "data.batch_size=8"))
    batches = state.data.batches(0)
    step = min(_seconds(lambda: take_step(state, next(batches), check=False)) for _ in range(REPEATS))
    named = dict(state.model.named_parameters())
    tensors = {f"weight/{n}": p for n, p in named.items()} | {f"gradient/{n}": p.grad for n, p in named.items()}
    with tempfile.TemporaryDirectory() as folder:
        tracker = Tracker(Path(folder), "", {})
        for number in range(1, STEPS + 1):
            loss, report = take_step(state, next(batches), check=False)
            change = torch.ones(2, dtype=report.before.dtype)
            tracker.step(number, loss, report, lr=1.0, steps_per_second=1.0, dropped=0, update_norms=change)
        steps = count(STEPS)  # the pictures of a step are written once

        def draw() -> None:
            tracker.gradient_norms(next(steps), [1.0] * STEPS, 0.0, limits_all=True)

        picture = _written(tracker, Path(folder), draw)
        histograms = _written(tracker, Path(folder), lambda: tracker.histograms(1, tensors))
        tracker.close()
    return Cost(sum(parameter.numel() for parameter in named.values()), step, picture, histograms)


def _written(tracker: Tracker, folder: Path, write: Callable[[], object]) -> tuple[float, float]:
    """Measures one call: seconds and bytes."""
    tracker.flush()
    (file,) = folder.glob(EVENT_FILES)
    before = file.stat().st_size
    seconds = min(_seconds(write) for _ in range(REPEATS))
    tracker.flush()
    return seconds, (file.stat().st_size - before) / REPEATS


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def page(found: list[Cost]) -> str:
    """Makes the table of the page."""
    rows = [
        [
            f"{cost.weights:,}",
            f"{1e3 * cost.step:.1f} ms",
            *(f"{1e3 * s:.1f} ms, {b / 1e3:.0f} kB" for s, b in cost[2:]),
        ]
        for cost in found
    ]
    return table(["weights", "a step of 8 rows", "the pictures", "all histograms"], rows)
