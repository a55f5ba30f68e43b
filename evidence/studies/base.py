"""What the studies share: a run's steps without its folder, tables, and colours."""

import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from torch import Tensor

from gradclip import ClipReport
from runner.compose import Composer, checked, register
from trainer import loop, optim
from trainer.config import Train

PROCESSES = 2
SEEDS = (1, 2, 3)  # wherever chance plays a part
COLOURS = ("#0072B2", "#E69F00", "#000000", "#009E73", "#D55E00")  # Okabe and Ito's, told apart by everybody
MARKERS = ("o", "s", "^", "D", "v")


Key = TypeVar("Key")
Result = TypeVar("Result")


class Step(NamedTuple):
    """One step of a run. number: 1 is the first."""

    number: int
    session: loop.Session
    loss: Tensor
    report: ClipReport


def compose(composer: Composer, *overrides: str) -> Train:
    """The checked configuration of a run that is only looked at: whatever happens to its gradients, it goes on."""
    return checked(composer.compose([*overrides, "clip.nonfinite=keep"]), overrides)


def walk(config: Train) -> Iterator[Step]:
    """The steps of a run, with no folder and no rule of divergence."""
    session = loop.build(config)
    session.model.train()
    for number, batch in zip(range(1, config.steps + 1), session.data.batches(0), strict=False):
        optim.set_rate(session.optimizer, config, number)
        loss, report = loop.take_step(session, batch, check=False)
        yield Step(number, session, loss, report)


def in_processes(work: Callable[[Composer, Key], Result], folder: Path, keys: Sequence[Key]) -> list[Result]:
    """The results of independent runs, in two processes of their own. folder: conf/, for their composers."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        return list(pool.map(partial(_alone, work, folder), keys))


def _alone(work: Callable[[Composer, Key], Result], folder: Path, key: Key) -> Result:
    register()
    return work(Composer(folder), key)


def slope(across: Sequence[float], along: Sequence[float]) -> float:
    """That of the straight line with the least squared error."""
    middle, mean = sum(across) / len(across), sum(along) / len(along)
    rise = sum((x - middle) * (y - mean) for x, y in zip(across, along, strict=True))
    return rise / sum((x - middle) ** 2 for x in across)


def log_slope(across: Sequence[float], norms: Sequence[float]) -> float:
    """The slope of the norms' logarithm."""
    return slope(across, [math.log(norm) for norm in norms])


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
