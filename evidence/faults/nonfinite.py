"""nan and inf in the loss, one gradient or one weight of a run, under every `nonfinite` mode."""

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from evidence.common import train_in_folder
from evidence.faults import Tally
from runner.runs.status import read_status
from tests.comparison import assert_identical
from tests.trainer.support import SMALL, text_file
from trainer.data import Batch, Dataset
from trainer.models import clone_state
from trainer.project import compose
from trainer.state import TrainState, build

MODES = ("error", "drop", "zero", "keep")
TARGETS = ("loss", "gradient", "weight")
POLICIES = ("zclip", "adagc", "autoclip", "ema", "quantile", "norm", "agc")
STEPS = 10


def injected(folder: Path, repeats: int, seed: int = 0) -> Tally:
    """Trains runs for every mode, target and value, with a random policy, step and parameter."""
    tally = Tally(
        "nan or inf in the loss, one gradient or one weight at a random step, under each `nonfinite` mode",
        "ends, drops the step or continues, as the mode says; names the parameter; the memory stays finite, and "
        "unchanged if the step is dropped",
    )
    rng, text = random.Random(seed), text_file(folder)
    for number in range(repeats):
        for mode in MODES:
            for target in TARGETS:
                for value in (math.nan, math.inf):
                    policy = rng.choice(POLICIES)
                    state = build(compose(f"data.path={text}", *SMALL, f"steps={STEPS}", f"clip={policy}",
                                          f"clip.nonfinite={mode}", "log.parameters_every=1",
                                          "divergence.factor=null", "optimizer.lr=0.1"))  # fmt: skip
                    corrupted = CorruptedDataset(state, target, value, rng)
                    run = folder / f"{number}-{mode}-{target}-{value}"
                    problem = problem_of(state, corrupted, run)
                    tally.count(not problem, f"{run.name} {policy}: {problem}")
    return tally


class CorruptedDataset(Dataset):
    """A state's data set, which at one step puts a value into the loss, a gradient or a weight.

    before, after: weights and clipping memory before and after that step. unset: the number of elements of the memory
    that are not finite before it, such as the unused ones of autoclip.
    """

    def __init__(self, state: TrainState, target: str, value: float, rng: random.Random):
        self.inputs, self.outputs, self.facts = state.data.inputs, state.data.outputs, state.data.facts
        self.step = rng.randrange(2, STEPS)
        self.name, self._parameter = rng.choice(list(state.model.named_parameters()))
        self.before: Any = None
        self.after: Any = None
        self.unset = 0
        self.target = target
        self._element = rng.randrange(self._parameter.numel())
        self._state, self._value, self._data, self._now = state, value, state.data, 0
        state.data = self

    def batches(self, start: int) -> Iterator[Batch]:
        for step, batch in enumerate(self._data.batches(start), start=start + 1):
            self._now = step
            if step == self.step:
                self._begin()
            if step == self.step + 1:
                self.after = snapshot(self._state)
            yield batch

    def _begin(self) -> None:
        self.before, self.unset = snapshot(self._state), nonfinite(self._state.clipper.state_dict())
        if self.target == "weight":
            self._parameter.data.view(-1)[self._element] = self._value
        if self.target == "gradient":
            self._parameter.register_hook(self._corrupt)  # type: ignore[no-untyped-call]

    def _corrupt(self, gradient: Tensor) -> Tensor:
        """Hook on the gradient, which puts the value into it at the one step."""
        if self._now != self.step:
            return gradient
        changed = gradient.clone()
        changed.view(-1)[self._element] = self._value
        return changed

    def validation(self) -> Iterator[Batch]:
        return self._data.validation()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = self._data.loss(outputs, targets)
        return loss * self._value if self.target == "loss" and self._now == self.step else loss


def problem_of(state: TrainState, corrupted: CorruptedDataset, run: Path) -> str:
    """Trains, and describes what was wrong; empty if nothing was."""
    mode = state.config.clip.nonfinite
    outcome = train_in_folder(state, run)
    reason = read_status(run)["reason"] or ""
    if nonfinite(state.clipper.state_dict()) > corrupted.unset:
        return "the memory is not finite"
    finishes = (mode == "drop" and corrupted.target != "weight") or (mode == "zero" and corrupted.target == "gradient")
    if outcome.state != ("finished" if finishes else "diverged"):
        return f"{outcome.state}: {reason}"
    if finishes:
        return _dropped(state, corrupted) if mode == "drop" else ""
    named = [name for name, _ in state.model.named_parameters() if name in reason]
    if mode == "error" and corrupted.target != "loss" and named != [corrupted.name]:
        return f"{corrupted.name} was corrupted, and the reason is {reason}"
    if not named and "the training loss is" not in reason:
        return f"no parameter is named: {reason}"
    return "" if f"step {corrupted.step}" in reason or mode == "keep" else f"not at step {corrupted.step}: {reason}"


def _dropped(state: TrainState, corrupted: CorruptedDataset) -> str:
    try:
        assert_identical(corrupted.before, corrupted.after)
    except AssertionError as error:
        return f"the step was dropped, but changed {error}"
    return "" if state.history.dropped == 1 else f"{state.history.dropped} steps were dropped"


def snapshot(state: TrainState) -> Any:
    """Copies the weights, the clipping memory without its step counts, and the hidden state."""
    hidden = [clone_state(hidden, state.device) for hidden in state.hidden]
    memory = {
        label: {key: link[key] for key in link if key != "step"} for label, link in state.clipper.state_dict().items()
    }
    return weights_of(state.model), cloned(memory), hidden


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def cloned(saved: Any) -> Any:
    """A deep copy of nested dictionaries of tensors."""
    if isinstance(saved, dict):
        return {key: cloned(value) for key, value in saved.items()}
    return saved.clone() if isinstance(saved, Tensor) else saved


def nonfinite(saved: Any) -> int:
    """The number of nan or infinite elements of all tensors in nested dictionaries."""
    if isinstance(saved, Tensor):
        return int((~saved.isfinite()).sum())
    return sum(map(nonfinite, saved.values())) if isinstance(saved, dict) else 0
