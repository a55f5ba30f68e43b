"""Whole training steps: this project's loop with everything logged, against loops written by hand."""

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

STEPS = {"MLP": 200, "LSTM": 7, "GPT": 7}  # a turn
WARM = 2  # the first of them are left out


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--turns", type=int, default=7, help="how often every loop takes its turn")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), help="which models")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="with how many threads")


class Sequences(nn.Module):
    """Characters [batch, time] to scores [batch, time, words] through some layers of vectors."""

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
    """Vectors [batch, 784] to scores [batch, 10]: two layers."""

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


class Made(Dataset):
    """The same made-up batches for everybody; notes when each is asked for."""

    inputs, outputs, facts = 100, 100, {"data": "made up"}

    def __init__(self, batch: Batch):
        self._batch = batch
        self.asked: list[float] = []

    def batches(self, start: int) -> Iterator[Batch]:
        while True:
            self.asked.append(time.perf_counter())
            yield self._batch

    def validation(self) -> Iterator[Batch]:
        yield self._batch

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs.flatten(0, -2), targets.flatten())

    def seconds(self, steps: int) -> float:
        """The mean time from one batch to the next: what a loop puts off for some steps is in it."""
        return (self.asked[steps - 1] - self.asked[WARM]) / (steps - 1 - WARM)


def bare(model: nn.Module, data: Dataset, folder: Path, steps: int) -> None:
    """The bare step, to which the shares of clipping and logging relate."""
    optimizer = adamw(model)
    for batch in itertools.islice(data.batches(0), steps):
        optimizer.zero_grad()
        data.loss(model(batch.inputs)[0], batch.targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def by_hand(model: nn.Module, data: Dataset, folder: Path, steps: int) -> None:
    """What is written without a thought of norms."""
    optimizer = adamw(model)
    for batch in itertools.islice(data.batches(0), steps):
        optimizer.zero_grad()
        data.loss(model(batch.inputs)[0], batch.targets).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), LIMIT)
        optimizer.step()


def by_hand_logged(model: nn.Module, data: Dataset, folder: Path, steps: int) -> None:
    """And what is written to see them."""
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
    """This project's loop. every: how often all scalars are logged, beside the first and the last step."""

    def run(model: nn.Module, data: Dataset, folder: Path, steps: int) -> None:
        logged = [f"log.{key}={every}" for key in ("every", "parameters_every")]
        config = compose("experiment=benchmark_step", f"steps={steps}", *logged)
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
        print(f'not installed, left out: {", ".join(missing)} (pip install -c constraints.txt -e ".[bench]")')
    rows, shares = [], []
    for threads in args.threads:
        torch.set_num_threads(threads)
        for name in args.models:
            times = taken(name, loops, args.turns)
            shown = [f"{milliseconds(times, each)} ms, {ratio(times, each, 'by hand')}" for each in loops]
            rows.append([name, str(threads), *shown, *["not installed"] * len(missing)])
            shares.append([name, str(threads), *(share(times, each) for each in loops if each != BARE)])
            print(name, threads, flush=True)
    head = ["model", "threads"]
    first = table([*head, *loops, *missing], rows)
    second = table([*head, *(each for each in loops if each != BARE)], shares)
    return f"{machine()}\n\n{first}\n\nWhat a loop adds to a step without clipping and logging:\n\n{second}"


def taken(name: str, loops: dict[str, Loop], turns: int) -> Times:
    """Seconds a step of every loop, a mean for each turn."""
    make, batch = MODELS[name]
    torch.manual_seed(1)
    data, steps = batch(), STEPS[name]
    times: Times = {each: [] for each in loops}
    names = list(loops)
    for turn in range(turns):
        for number in range(len(names)):
            each = names[(turn + number) % len(names)]
            made = Made(data)
            with tempfile.TemporaryDirectory() as folder:
                loops[each](make(), made, Path(folder), steps)
            times[each].append(made.seconds(steps))
    return times


def share(times: Times, name: str) -> str:
    """In per cent, the median of those within a turn, and their quartiles."""
    found = ratio(times, name, BARE)
    return f"{100 * (found.median - 1):.1f} % ({100 * (found.low - 1):.1f} to {100 * (found.high - 1):.1f})"
