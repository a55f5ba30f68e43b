"""Other settings for a diverged run, each tried for its first steps."""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gradclip import ClipByNorm, NonFiniteGradientError
from runner.errors import quote_override
from runner.report.fit import resets
from runner.report.post_mortem import ABOVE_REACH, AT_START, EXPLOSION, INPUT, JUMPED, OVERFLOW, Cause, Evidence
from runner.report.settings import settings_of
from runner.runs.run import Diverged
from runner.sweeps.results import relative_path
from trainer.config import Train
from trainer.config.schedule import Schedule
from trainer.loop import batches, take_step
from trainer.optimizers import set_lr
from trainer.state import initial_state

FACTORS = [10.0**-exponent / divisor for exponent in range(6) for divisor in (1, 3)][1:]  # 1/3, 1/10, 1/30, ...
PATIENCE = 2  # worse settings in a row after which a search ends
MOST = 15  # settings that are tried
LAST = 10  # steps whose mean loss counts
LEARNED = 0.01  # a share of the first loss, by which the loss has to fall


@dataclass(frozen=True)
class Setting:
    """Overrides of a run by key, and its configuration with them."""

    overrides: dict[str, str]
    config: Train

    def changed(self, overrides: dict[str, str], **values: Any) -> "Setting":
        """The setting with further overrides, and the values that they give the configuration."""
        return Setting(self.overrides | overrides, replace(self.config, **values))


@dataclass(frozen=True)
class Attempt:
    """The first steps of a run with other settings: how many it took, its first loss, and the mean of its last ones.

    last: infinite if the run diverged.
    """

    overrides: tuple[str, ...]
    steps: int
    first: float
    last: float

    @property
    def learned(self) -> bool:
        """Whether the loss fell by more than 1 %."""
        return self.first - self.last > LEARNED * abs(self.first)


@dataclass
class Search:
    """Tries settings one after the other, and keeps the attempts.

    steps: that each setting takes at most. keep_going: called before every step; false ends the search.
    """

    steps: int
    keep_going: Callable[[], bool]
    attempts: list[Attempt]
    best: Setting | None = None
    lowest: float = math.inf
    ended_early: bool = False

    def descend(self, settings: Iterable[Setting]) -> None:
        """Tries settings until two in a row are no better than the best of all so far."""
        worse = 0
        for setting in settings:
            overrides = as_overrides(setting)
            if worse == PATIENCE or len(self.attempts) == MOST or self.ended_early:
                break
            if overrides in [attempt.overrides for attempt in self.attempts]:
                continue
            if (attempt := self._attempt(setting, overrides)) is None:
                self.ended_early = True
                break
            self.attempts.append(attempt)
            if attempt.last < self.lowest:
                self.best, self.lowest, worse = setting, attempt.last, 0
            elif self.best is not None:
                worse += 1

    def _attempt(self, setting: Setting, overrides: tuple[str, ...]) -> Attempt | None:
        """Takes the first steps of a run; None if they were interrupted."""
        if not self.keep_going():
            return None
        state = initial_state(setting.config)
        losses: list[float] = []
        for number, batch in zip(range(1, self.steps + 1), batches(state), strict=False):
            if not self.keep_going():
                return None
            set_lr(state.optimizer, state.lr_at(number))
            try:
                loss, report = take_step(state, batch, check=False)
                state.clipper.raise_if_nonfinite()
                if report.dropped:
                    continue
                losses.append(float(loss))
                state.divergence.update(number, losses[-1])
            except (NonFiniteGradientError, Diverged):
                return Attempt(overrides, number, losses[0] if losses else math.nan, math.inf)
        recent = losses[-LAST:]
        steps = min(self.steps, setting.config.steps)
        return (
            Attempt(overrides, steps, losses[0], math.fsum(recent) / len(recent))
            if losses
            else Attempt(overrides, steps, math.nan, math.inf)
        )


def find(
    config: Train, evidence: Evidence, cause: Cause, keep_going: Callable[[], bool], weights: Path | None = None
) -> Search:
    """Searches settings with which the run learns.

    The learning rate is lowered, or the threshold, or both, as long as the loss gets lower. weights: a checkpoint from
    which the settings start, with the constant learning rate at which the run diverged: a schedule would begin anew,
    and would not reach that rate within a few steps.
    """
    search, start = Search(config.post_mortem.try_steps, keep_going, []), Setting({}, config)
    if cause.name == AT_START:
        return search
    if weights is not None:
        start = from_checkpoint(start, weights, evidence.steps[-1].lr)
    if cause.name == INPUT:
        start = start.changed({"clip.nonfinite": "drop"}, clip=replace(config.clip, nonfinite="drop"))
        search.descend([start])
    elif cause.name == OVERFLOW:
        start = start.changed({"device.precision": "float32"}, device=replace(config.device, precision="float32"))
        search.descend([start])
    elif cause.name in (EXPLOSION, ABOVE_REACH, JUMPED) and (norm := evidence.usual_norm) is not None:
        search.descend(with_threshold(start, limit) for limit in thresholds(norm))
        search.descend(rates(with_threshold(start, norm)))
        start = search.best or with_threshold(start, norm)
    if cause.name not in (INPUT, OVERFLOW) or search.best is None:
        search.descend(rates(start))
    return search


def as_overrides(setting: Setting) -> tuple[str, ...]:
    """The overrides of a setting as a command line takes them."""
    return tuple(f"{key}={value}" for key, value in setting.overrides.items())


def thresholds(norm: float) -> list[float]:
    """Thresholds from a usual norm down, by powers of ten."""
    return [norm * 10.0**-exponent for exponent in range(7)]


def rates(setting: Setting) -> Iterable[Setting]:
    """A setting with lower learning rates."""
    return (with_rate(setting, setting.config.optimizer.lr * factor) for factor in FACTORS)


def with_threshold(setting: Setting, limit: float) -> Setting:
    """A setting with clip=norm at a limit, rounded to two digits, and without what an experiment sets of it besides."""
    limit = float(f"{limit:.2g}")
    others = dict(override.split("=", 1) for override in resets(settings_of(asdict(setting.config))))
    nonfinite = setting.config.clip.nonfinite
    if nonfinite != "error":
        others["clip.nonfinite"] = nonfinite
    policy = ClipByNorm(max=limit, nonfinite=nonfinite)
    return setting.changed({"clip": "norm", "clip.max": f"{limit:g}"} | others, clip=policy)


def with_rate(setting: Setting, lr: float) -> Setting:
    """A setting with another learning rate, rounded to two digits."""
    lr = float(f"{lr:.2g}")
    return setting.changed({"optimizer.lr": f"{lr:g}"}, optimizer=replace(setting.config.optimizer, lr=lr))


def from_checkpoint(setting: Setting, weights: Path, lr: float) -> Setting:
    """A setting that starts from the weights of a checkpoint, at a constant learning rate."""
    setting = setting.changed({"init_from": quote_override(relative_path(weights))}, init_from=str(weights))
    return with_rate(setting.changed({"schedule": "constant"}, schedule=Schedule.options["constant"](warmup=0)), lr)
