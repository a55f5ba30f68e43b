"""Whole training steps: this project's loop with everything logged, against hand-written loops."""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.tensorboard import SummaryWriter

from evidence.benchmarks.frameworks import LIMIT, Loop, adamw, installed
from evidence.benchmarks.frameworks import LOOPS as FRAMEWORKS
from evidence.benchmarks.measure import Times, machine, milliseconds, ratio
from evidence.common import compose, train_in_folder
from evidence.pages import table
from gradclip import ClipByNorm, Clipper
from trainer.data import Batch, Dataset
from trainer.monitor.diagnosis import GradientMonitor
from trainer.monitor.divergence import DivergenceDetector
from trainer.state import TrainState

STEPS = {"MLP": 200, "LSTM": 7, "GPT": 7}  # per turn
WARM = 2  # the first steps, which are not measured


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--turns", type=int, default=7, help="the number of turns of every loop")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), help="the models")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="the numbers of threads")


class Sequences(nn.Module):
    """A sequence model: characters [batch, time] to scores [batch, time, words]. core: an LSTM or a transformer."""

    def __init__(self, core: nn.Module, width: int, words: int = 100):
        super().__init__()
        self.embedding, self.core, self.output = nn.Embedding(words, width), core, nn.Linear(width, words)

    def forward(self, inputs: Tensor, state: object = None) -> tuple[Tensor, None]:
        vectors = self.embedding(inputs)
        if isinstance(self.core, nn.LSTM):
            hidden = self.core(vectors)[0]
        else:
            mask = nn.Transformer.generate_square_subsequent_mask(inputs.shape[1])
            hidden = self.core(vectors, mask=mask, is_causal=True)
        return self.output(hidden), None


class Perceptron(nn.Module):
    """A perceptron of two layers: vectors [batch, 784] to scores [batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))

    def forward(self, inputs: Tensor, state: object = None) -> tuple[Tensor, None]:
        return self.layers(inputs), None


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.0, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)


def characters() -> Batch:
    return Batch(torch.randint(100, (16, 64)), torch.randint(100, (16, 64)))


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Batch]]] = {
    "MLP": (Perceptron, lambda: Batch(torch.randn(64, 784), torch.randint(10, (64,)))),
    "LSTM": (lambda: Sequences(nn.LSTM(512, 512, 2, batch_first=True), 512), characters),
    "GPT": (lambda: Sequences(transformer(), 256), characters),
}


class RandomDataset(Dataset):
    """Yields the same random batch again and again, and records the time of each request."""

    inputs, outputs, facts = 100, 100, {"data": "random"}

    def __init__(self, batch: Batch):
        self._batch = batch
        self.requested: list[float] = []

    def batches(self, start: int) -> Iterator[Batch]:
        while True:
            self.requested.append(time.perf_counter())
            yield self._batch

    def validation(self) -> Iterator[Batch]:
        yield self._batch

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs.flatten(0, -2), targets.flatten())

    def seconds(self, steps: int) -> float:
        """The mean time from one batch to the next, which includes work that a loop defers to later steps."""
        return (self.requested[steps - 1] - self.requested[WARM]) / (steps - 1 - WARM)


def bare(model: nn.Module, data: Dataset, folder: Path, steps: int) -> None:
    """Trains without clipping and logging, the reference for their cost."""
    optimizer = adamw(model)
    for batch in itertools.islice(data.batches(0), steps):
        optimizer.zero_grad()
        data.loss(model(batch.inputs)[0], batch.targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def by_hand(model: nn.Module, data: Dataset, folder: Path, steps: int) -> None:
    """Trains with clipping, without logging."""
    optimizer = adamw(model)
    for batch in itertools.islice(data.batches(0), steps):
        optimizer.zero_grad()
        data.loss(model(batch.inputs)[0], batch.targets).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), LIMIT)
        optimizer.step()


def by_hand_logged(model: nn.Module, data: Dataset, folder: Path, steps: int) -> None:
    """Trains with clipping, and logs all norms and the loss."""
    optimizer = adamw(model)
    writer = SummaryWriter(str(folder))
    for step, batch in enumerate(itertools.islice(data.batches(0), steps)):
        optimizer.zero_grad()
        loss = data.loss(model(batch.inputs)[0], batch.targets)
        loss.backward()  # type: ignore[no-untyped-call]
        for name, parameter in model.named_parameters():
            writer.add_scalar(f"grad_norm_before/{name}", parameter.grad.norm().item(), step)  # type: ignore[union-attr]
        writer.add_scalar("grad_norm/before", nn.utils.clip_grad_norm_(model.parameters(), LIMIT).item(), step)
        for name, parameter in model.named_parameters():
            writer.add_scalar(f"grad_norm_after/{name}", parameter.grad.norm().item(), step)  # type: ignore[union-attr]
        writer.add_scalar("loss/train", loss.item(), step)
        optimizer.step()
    writer.close()


def ours(every: int = 1) -> Loop:
    """Makes this project's loop. every: steps between logged steps; the first and the last are always logged."""

    def run(model: nn.Module, data: Dataset, folder: Path, steps: int) -> None:
        logged = [f"log.{key}={every}" for key in ("every", "parameters_every")]
        rows = len(next(data.validation()).inputs)
        config = compose("experiment=benchmark_step", f"steps={steps}", f"data.batch_size={rows}", *logged)
        optimizer = adamw(model)
        state = TrainState(
            config=config,
            device=torch.device("cpu"),
            data=data,
            model=model,
            optimizer=optimizer,
            lr_factor=lambda step: 1.0,
            clipper=Clipper(model.named_parameters(), ClipByNorm(max=LIMIT), optimizer=optimizer),
            scaler=torch.amp.GradScaler("cpu", enabled=False),
            hidden=[None],
            divergence=DivergenceDetector(config.divergence),
            monitor=GradientMonitor(config),
        )
        train_in_folder(state, folder)

    return run


BARE = "by hand, nothing clipped"
LOOPS: dict[str, Loop] = {
    BARE: bare,
    "by hand": by_hand,
    "by hand, logged": by_hand_logged,
    "ours": ours(),
    "ours, nothing logged": ours(10**6),
}


def run(args: argparse.Namespace) -> str:
    loops = LOOPS | installed()
    missing = [name for name in FRAMEWORKS if name not in loops]
    if missing:
        print(f'not installed, skipped: {", ".join(missing)} (pip install -c constraints.txt -e ".[bench]")')
    rows, shares = [], []
    for threads in args.threads:
        torch.set_num_threads(threads)
        for name in args.models:
            times = step_times(name, loops, args.turns)
            shown = [f"{milliseconds(times, loop)} ms, {ratio(times, loop, 'by hand')}" for loop in loops]
            rows.append([name, str(threads), *shown, *["not installed"] * len(missing)])
            shares.append([name, str(threads), *(share(times, loop) for loop in loops if loop != BARE)])
            print(name, threads, flush=True)
    head = ["model", "threads"]
    first = table([*head, *loops, *missing], rows)
    second = table([*head, *(loop for loop in loops if loop != BARE)], shares)
    return f"{machine()}\n\n{first}\n\nWhat a loop adds to a step without clipping and logging:\n\n{second}"


def step_times(name: str, loops: dict[str, Loop], turns: int) -> Times:
    """The seconds per step of every loop, the mean of each turn."""
    make, batch = MODELS[name]
    torch.manual_seed(1)
    data, steps = batch(), STEPS[name]
    times: Times = {loop: [] for loop in loops}
    names = list(loops)
    for turn in range(turns):
        for number in range(len(names)):
            loop = names[(turn + number) % len(names)]
            dataset = RandomDataset(data)
            with tempfile.TemporaryDirectory() as folder:
                loops[loop](make(), dataset, Path(folder), steps)
            times[loop].append(dataset.seconds(steps))
    return times


def share(times: Times, name: str) -> str:
    """Formats the time beyond the bare loop's in per cent: the median over turns, and the quartiles."""
    found = ratio(times, name, BARE)
    return f"{100 * (found.median - 1):.1f} % ({100 * (found.low - 1):.1f} to {100 * (found.high - 1):.1f})"
