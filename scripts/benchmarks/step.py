"""Whole training steps: this project's loop with everything logged, against loops written by hand."""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.tensorboard import SummaryWriter

from gradclip import ClipByNorm, Clipper
from scripts.benchmarks.measure import Ratio, Times, machine, milliseconds, ratio, table, write
from trainer import loop
from trainer.cli import CONF
from trainer.compose import Composer, checked
from trainer.data import Batch, Dataset
from trainer.divergence import Watch
from trainer.run import Run
from trainer.tracking import Tracker

STEPS = 12  # a turn; the first two are left out


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--turns", type=int, default=12, help="how often every loop takes its turn")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), help="which models")


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

    def seconds(self) -> float:
        """The median time from one batch to the next."""
        return statistics.median(b - a for a, b in itertools.pairwise(self.asked[2:STEPS]))


Loop = Callable[[nn.Module, Made, Path], None]


def by_hand(model: nn.Module, data: Made, folder: Path) -> None:
    """What is written without a thought of norms."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    for batch in itertools.islice(data.batches(0), STEPS):
        optimizer.zero_grad()
        data.loss(model(batch.inputs)[0], batch.targets).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def by_hand_logged(model: nn.Module, data: Made, folder: Path) -> None:
    """And what is written to see them."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    writer = SummaryWriter(str(folder))
    for step, batch in enumerate(itertools.islice(data.batches(0), STEPS)):
        optimizer.zero_grad()
        loss = data.loss(model(batch.inputs)[0], batch.targets)
        loss.backward()  # type: ignore[no-untyped-call]
        for name, parameter in model.named_parameters():
            writer.add_scalar(f"grad_norm_before/{name}", parameter.grad.norm().item(), step)  # type: ignore[union-attr]
        writer.add_scalar("grad_norm/before", nn.utils.clip_grad_norm_(model.parameters(), 1.0).item(), step)
        for name, parameter in model.named_parameters():
            writer.add_scalar(f"grad_norm_after/{name}", parameter.grad.norm().item(), step)  # type: ignore[union-attr]
        writer.add_scalar("loss/train", loss.item(), step)
        optimizer.step()
    writer.close()


def ours(*overrides: str) -> Loop:
    """This project's loop; by default with every scalar of the design at every step."""

    def run(model: nn.Module, data: Made, folder: Path) -> None:
        composer = Composer(CONF)
        settings = [
            "optimizer=adamw",
            "optimizer.lr=1e-3",
            "log.progress=false",
            "log.every=1",
            "log.parameters_every=1",
        ]
        settings += [f"{key}={STEPS}" for key in ("steps", "evaluate_every", "checkpoint.every", "check_every")]
        config = checked(composer.compose(composer.quoted([*settings, *overrides])))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        clipper = Clipper(model.named_parameters(), ClipByNorm(max=1.0), optimizer=optimizer)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        watch = Watch(config.divergence)
        session = loop.Session(config, torch.device("cpu"), data, model, optimizer, clipper, scaler, [None], watch)
        tracker = Tracker(folder, "", data.facts)
        loop.train(session, Run(folder, STEPS), tracker)
        tracker.close()

    return run


LOOPS: dict[str, Loop] = {
    "by hand": by_hand,
    "by hand, logged": by_hand_logged,
    "ours": ours(),
    "ours, every tenth step logged": ours("log.every=10", "log.parameters_every=100"),
}


def run(args: argparse.Namespace) -> None:
    rows = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for name in args.models:
            times = taken(name, args.turns)
            shown = [f"{milliseconds(times, each)} ms, {against(times, each)}" for each in LOOPS if each != "by hand"]
            rows.append([name, str(threads), f"{milliseconds(times, 'by hand')} ms", *shown])
            print(name, threads, flush=True)
    head = ["model", "threads", *LOOPS]
    write("step", f"{ABOUT}\n\n{machine()}\n\n{table(head, rows)}")


ABOUT = """`python scripts/benchmark.py step`

*By hand*: zero_grad, backward, `clip_grad_norm_`, step, and nothing logged. *Logged*: that with the loss and every
parameter's norm before and after written by `add_scalar`. *Ours*: this project's loop, which writes every scalar of its
design (both norms, of every parameter too, limit, scale, fraction, weight norm, update ratio, loss, rate) at every
step. AdamW, fused; ratios are against the loop by hand."""


def taken(name: str, turns: int) -> Times:
    """Seconds a step of every loop, a median for each turn."""
    make, batch = MODELS[name]
    torch.manual_seed(1)
    data = batch()
    times: Times = {each: [] for each in LOOPS}
    names = list(LOOPS)
    for turn in range(turns):
        for number in range(len(names)):
            each = names[(turn + number) % len(names)]
            made = Made(data)
            with tempfile.TemporaryDirectory() as folder:
                LOOPS[each](make(), made, Path(folder))
            times[each].append(made.seconds())
    return times


def against(times: Times, name: str) -> Ratio:
    return ratio(times, name, "by hand")
