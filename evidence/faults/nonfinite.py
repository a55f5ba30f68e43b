"""nan and inf put into the loss, one gradient or one weight of a run, under every `nonfinite` mode."""

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
PLACES = ("loss", "gradient", "weight")
POLICIES = ("zclip", "adagc", "autoclip", "ema", "quantile", "norm", "agc")
STEPS = 10


def injected(folder: Path, each: int, seed: int = 0) -> Tally:
    """So many runs for every mode, place and value, the policy, the step and the parameter at random."""
    tally = Tally(
        "nan or inf in the loss, one gradient or one weight at a random step, under each `nonfinite` mode",
        "ends, or leaves the step out, or goes on, as the mode says; names the parameter; the memory stays finite, and"
        " as it was where the step is left out",
    )
    chance, text = random.Random(seed), text_file(folder)
    for number in range(each):
        for mode in MODES:
            for place in PLACES:
                for value in (math.nan, math.inf):
                    policy = chance.choice(POLICIES)
                    state = build(compose(f"data.path={text}", *SMALL, f"steps={STEPS}", f"clip={policy}",
                                          f"clip.nonfinite={mode}", "log.parameters_every=1",
                                          "divergence.factor=null", "optimizer.lr=0.1"))  # fmt: skip
                    spoilt = Spoilt(state, place, value, chance)
                    run = folder / f"{number}-{mode}-{place}-{value}"
                    problem = problem_of(state, spoilt, run)
                    tally.count(not problem, f"{run.name} {policy}: {problem}")
    return tally


class Spoilt(Dataset):
    """A state's data, which at one step puts a value into the loss, or into the state's gradient or weight.

    before, after: weights and clipping memory at the beginning and at the end of that step. empty: how many elements of
    the memory are not finite before it, as those are that autoclip does not use yet.
    """

    def __init__(self, state: TrainState, place: str, value: float, chance: random.Random):
        self.inputs, self.outputs, self.facts = state.data.inputs, state.data.outputs, state.data.facts
        self.step = chance.randrange(2, STEPS)
        self.name, self._parameter = chance.choice(list(state.model.named_parameters()))
        self.before: Any = None
        self.after: Any = None
        self.empty = 0
        self.place = place
        self._element = chance.randrange(self._parameter.numel())
        self._state, self._value, self._data, self._now = state, value, state.data, 0
        state.data = self

    def batches(self, start: int) -> Iterator[Batch]:
        for step, batch in enumerate(self._data.batches(start), start=start + 1):
            self._now = step
            if step == self.step:
                self._begin()
            if step == self.step + 1:
                self.after = copy_of(self._state)
            yield batch

    def _begin(self) -> None:
        self.before, self.empty = copy_of(self._state), nonfinite(self._state.clipper.state_dict())
        if self.place == "weight":
            self._parameter.data.view(-1)[self._element] = self._value
        if self.place == "gradient":
            self._parameter.register_hook(self._spoil)  # type: ignore[no-untyped-call]

    def _spoil(self, gradient: Tensor) -> Tensor:
        """The gradient that comes from backward, with the value in it at the one step."""
        if self._now != self.step:
            return gradient
        spoilt = gradient.clone()
        spoilt.view(-1)[self._element] = self._value
        return spoilt

    def validation(self) -> Iterator[Batch]:
        return self._data.validation()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = self._data.loss(outputs, targets)
        return loss * self._value if self.place == "loss" and self._now == self.step else loss


def problem_of(state: TrainState, spoilt: Spoilt, run: Path) -> str:
    """Trains, and says what was not as it must be; empty if all was."""
    mode = state.config.clip.nonfinite
    outcome = train_in_folder(state, run)
    reason = read_status(run)["reason"] or ""
    if nonfinite(state.clipper.state_dict()) > spoilt.empty:
        return "the memory is not finite"
    finishes = (mode == "drop" and spoilt.place != "weight") or (mode == "zero" and spoilt.place == "gradient")
    if outcome.state != ("finished" if finishes else "diverged"):
        return f"{outcome.state}: {reason}"
    if finishes:
        return _left_out(state, spoilt) if mode == "drop" else ""
    named = [name for name, _ in state.model.named_parameters() if name in reason]
    if mode == "error" and spoilt.place != "loss" and named != [spoilt.name]:
        return f"{spoilt.name} was spoilt, and the reason is {reason}"
    if not named and "the training loss is" not in reason:
        return f"no parameter is named: {reason}"
    return "" if f"step {spoilt.step}" in reason or mode == "keep" else f"not at step {spoilt.step}: {reason}"


def _left_out(state: TrainState, spoilt: Spoilt) -> str:
    try:
        assert_identical(spoilt.before, spoilt.after)
    except AssertionError as error:
        return f"the step was left out, but changed {error}"
    return "" if state.history.dropped == 1 else f"{state.history.dropped} steps were left out"


def copy_of(state: TrainState) -> Any:
    """The weights, the clipping memory and the hidden state as they are now, without the number of steps."""
    hidden = [clone_state(each, state.device) for each in state.hidden]
    memory = {
        label: {key: link[key] for key in link if key != "step"} for label, link in state.clipper.state_dict().items()
    }
    return weights_of(state.model), cloned(memory), hidden


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def cloned(saved: Any) -> Any:
    """A saved state with tensors of its own."""
    if isinstance(saved, dict):
        return {key: cloned(value) for key, value in saved.items()}
    return saved.clone() if isinstance(saved, Tensor) else saved


def nonfinite(saved: Any) -> int:
    """How many elements of all tensors in a saved state are nan or infinite."""
    if isinstance(saved, Tensor):
        return int((~saved.isfinite()).sum())
    return sum(map(nonfinite, saved.values())) if isinstance(saved, dict) else 0
