"""nan and inf put into the loss, one gradient or one weight of a run, under every `nonfinite` mode."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from evidence.faults import Tally
from tests.same import same
from tests.trainer.support import SMALL, text_file
from trainer import loop
from trainer.data import Batch
from trainer.project import compose

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
                    run = folder / f"{number}-{mode}-{place}-{value}"
                    problem = Injection(mode, place, value, policy, chance, run, text).problem()
                    tally.count(not problem, f"{run.name} {policy}: {problem}")
    return tally


class Injection:
    """One run of ten steps into which a value is put once, and what was seen of it."""

    def __init__(self, mode: str, place: str, value: float, policy: str, chance: random.Random, run: Path, text: str):
        self.mode, self.place, self.value, self.run = mode, place, value, run
        self.config = compose(f"data.path={text}", *SMALL, f"steps={STEPS}", f"clip={policy}", f"clip.nonfinite={mode}",
                              "log.parameters_every=1", "divergence.factor=null", "optimizer.lr=0.1")  # fmt: skip
        self.step, self.chance = chance.randrange(2, STEPS), chance
        self.name = ""
        self.session: loop.Session | None = None
        self.before: tuple[Any, Any] | None = None  # weights and memory at the beginning of the step
        self.after: tuple[Any, Any] | None = None  # and at its end
        self.empty = 0  # places of the memory that are not yet in use, which autoclip fills with nan

    def problem(self) -> str:
        """What was not as it must be; empty if all was."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "take_step", self._around(loop.take_step))
            patch.setattr(loop, "forward_backward", self._spoilt(loop.forward_backward))
            ending = loop.run_recorded(self.config, self.run)
        reason = json.loads((self.run / "status.json").read_text())["reason"] or ""
        assert self.session is not None
        if nonfinite(self.session.clipper.state_dict()) > self.empty:
            return "the memory is not finite"
        goes_on = (self.mode == "drop" and self.place != "weight") or (self.mode == "zero" and self.place == "gradient")
        if ending.state != ("finished" if goes_on else "diverged"):
            return f"{ending.state}: {reason}"
        if goes_on:
            return self._left_out() if self.mode == "drop" else ""
        named = [name for name, _ in self.session.model.named_parameters() if name in reason]
        if self.mode == "error" and self.place != "loss" and named != [self.name]:
            return f"{self.name} was spoilt, and the reason is {reason}"
        if not named and "the training loss is" not in reason:
            return f"no parameter is named: {reason}"
        return "" if f"step {self.step}" in reason or self.mode == "keep" else f"not at step {self.step}: {reason}"

    def _left_out(self) -> str:
        assert self.session is not None
        try:
            same(self.before, self.after)
        except AssertionError as error:
            return f"the step was left out, but changed {error}"
        return "" if self.session.history.dropped == 1 else f"{self.session.history.dropped} steps were left out"

    def _around(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def take_step(session: loop.Session, *arguments: Any, **named: Any) -> Any:
            self.session, here = session, session.step + 1 == self.step
            if here:
                self.before, self.empty = copied(session), nonfinite(session.clipper.state_dict())
            result = real(session, *arguments, **named)
            if here:
                self.after = copied(session)
            return result

        return take_step

    def _spoilt(self, real: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def forward_backward(session: loop.Session, batch: Batch) -> Tensor:
            if session.step + 1 != self.step:
                return real(session, batch)
            self.name, parameter = self.chance.choice(list(session.model.named_parameters()))
            place = self.chance.randrange(parameter.numel())
            if self.place == "weight":
                parameter.data.view(-1)[place] = self.value
            if self.place == "loss":
                true_loss = session.data.loss
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(session.data, "loss", lambda *given: true_loss(*given) * self.value)
                    return real(session, batch)
            loss = real(session, batch)
            if self.place == "gradient":
                assert parameter.grad is not None
                parameter.grad.view(-1)[place] = self.value
            return loss

        return forward_backward


def copied(session: loop.Session) -> tuple[Any, Any]:
    """The weights and the clipping memory as they are now."""
    weights = {name: weight.clone() for name, weight in session.model.state_dict().items()}
    return weights, json.loads(json.dumps(session.clipper.state_dict(), default=lambda tensor: tensor.tolist()))


def nonfinite(state: Any) -> int:
    """How many elements of all tensors in a saved state are nan or infinite."""
    if isinstance(state, Tensor):
        return int((~state.isfinite()).sum())
    return sum(map(nonfinite, state.values())) if isinstance(state, dict) else 0
