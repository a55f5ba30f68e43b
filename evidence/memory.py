"""Compares a run's memory with a hand-written loop's: `python evidence/memory.py` writes evidence/docs/memory.md.

Both train the same perceptron on the same data with the same optimizer and the same clipping, each in a process of its
own. At steps that do not log the norm of the update, a run may need at most 5 % more memory than the loop.
"""

import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor, nn

from evidence import pages
from evidence.common import compose, in_processes, train_in_folder
from evidence.processes import forget_peak, memory
from trainer.data import Batch, Dataset
from trainer.state import TrainState, build

PAGE = pages.DOCS / "memory.md"
LIMIT = 1.0  # as in experiment=memory
WIDTH = 3000  # of the hidden layers; gives 18 million weights
STEADY = 3  # from this step on, nothing that only the first step allocates is left


@dataclass
class MemoryUse:
    """Memory use in MB.

    weights: the model's weights. start: the process before the model was built. live: all tensors, between steps.
    resident, peak: the process beyond `start`, between steps and within a step. forward: all tensors at the beginning
    of each step's forward pass.
    """

    weights: float
    start: float
    live: float = 0.0
    resident: float = 0.0
    peak: float = 0.0
    forward: list[float] = field(default_factory=list)


class MeasuringDataset(Dataset):
    """A data set that measures memory whenever a batch is requested, which is between steps."""

    def __init__(self, data: Dataset, use: MemoryUse):
        self.inputs, self.outputs, self.facts = data.inputs, data.outputs, data.facts
        self._data, self._use = data, use

    def batches(self, start: int) -> Iterator[Batch]:
        for step, batch in enumerate(self._data.batches(start), start=start + 1):
            if step == STEADY:
                forget_peak()
            if step > STEADY:
                self._use.live = max(self._use.live, live_tensors())
                self._use.resident = max(self._use.resident, (memory("VmRSS") or 0.0) - self._use.start)
                self._use.peak = max(self._use.peak, (memory("VmHWM") or 0.0) - self._use.start)
            yield batch

    def validation(self) -> Iterator[Batch]:
        return self._data.validation()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._data.loss(outputs, targets)


def live_tensors() -> float:
    """The size in MB of all tensors that Python can reach, gradients included, each storage once."""
    tensors = [item for item in gc.get_objects() if issubclass(type(item), Tensor)]
    tensors += [tensor.grad for tensor in tensors if tensor.is_leaf and tensor.grad is not None]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    size: int = sum(storages.values())
    return size / 1e6


def by_hand(state: TrainState, folder: Path) -> None:
    """Trains with a hand-written loop that clips and logs nothing."""
    model, optimizer = state.model, state.optimizer
    for batch in islice(state.data.batches(0), state.config.steps):
        optimizer.zero_grad()
        loss = state.data.loss(model(batch.inputs, None)[0], batch.targets)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), LIMIT)
        optimizer.step()


def ours(state: TrainState, folder: Path) -> None:
    """Trains with this project's loop."""
    train_in_folder(state, folder)


LOOPS: dict[str, Callable[[TrainState, Path], object]] = {"by hand": by_hand, "ours": ours}


def measure(width: int, name: str) -> MemoryUse:
    """Runs one loop in this process and measures it. width: of the hidden layers."""
    torch.set_num_threads(1)
    before = memory("VmRSS") or 0.0
    state = build(compose("experiment=memory", f"model.hidden=[{width},{width},{width}]"))
    use = MemoryUse(sum(p.numel() * p.element_size() for p in state.model.parameters()) / 1e6, before)
    state.data = MeasuringDataset(state.data, use)
    state.model.register_forward_pre_hook(lambda module, inputs: use.forward.append(live_tensors()))
    with TemporaryDirectory() as folder:
        LOOPS[name](state, Path(folder) / "run")
    return use


def main(arguments: list[str] | None = None) -> None:
    parser = pages.parser(__doc__, PAGE)
    parser.add_argument("--width", type=int, default=WIDTH, help="the width of the model's three hidden layers")
    args = parser.parse_args(arguments)
    pages.write(args.page, {"memory": section(compare(args.width))})


def compare(width: int) -> dict[str, MemoryUse]:
    """Measures both loops, each in a new process."""
    return {name: in_processes(partial(measure, width), [name])[0] for name in LOOPS}


def section(found: dict[str, MemoryUse]) -> str:
    """Makes the tables of the two loops' memory, and their ratios."""
    hand, project = found["by hand"], found["ours"]
    pairs = {
        "live tensors, between steps": (hand.live, project.live),
        "resident, between steps": (hand.resident, project.resident),
        "resident, at most in a step": (hand.peak, project.peak),
    }
    rows = [[title, f"{one:.1f}", f"{other:.1f}", f"{other / one:.3f}"] for title, (one, other) in pairs.items()]
    forward = [
        [str(step + 1), *(f"{use.forward[step] / use.weights:.2f}" for use in (hand, project))]
        for step in range(STEADY)
    ]
    first = pages.table([f"MB, with {hand.weights:.0f} MB of weights", *found, "ratio"], rows)
    second = pages.table(["step", *(f"live in the forward pass, {name}" for name in found)], forward)
    return f"{first}\n\n{second}"


if __name__ == "__main__":
    main()
