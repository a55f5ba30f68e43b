"""Other settings for a diverged run, each tried for its first steps."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradclip import ClipByNorm, NonFiniteGradientError
from runner.errors import quote_override
from runner.report.post_mortem import ABOVE_REACH, EXPLOSION, INPUT, JUMPED, OVERFLOW, Cause, Evidence
from runner.runs.run import Diverged
from runner.sweeps.results import relative_path
from trainer.config import Train
from trainer.loop import batches, take_step
from trainer.optimizers import set_lr
from trainer.replay import initial_state

FACTORS = [10.0**-exponent / divisor for exponent in range(6) for divisor in (1, 3)][1:]  # 1/3, 1/10, 1/30, ...
PATIENCE = 2  # worse settings in a row after which a search ends
MOST = 15  # settings that are tried
LAST = 10  # steps whose mean loss counts


@dataclass(frozen=True)
class Setting:
    """Overrides of a run, and its configuration with them."""

    overrides: tuple[str, ...]
    config: Train

    def changed(self, *overrides: str, **values: Any) -> "Setting":
        """The setting with further overrides, and the values that they give the configuration."""
        return Setting((*self.overrides, *overrides), replace(self.config, **values))


@dataclass(frozen=True)
class Checkpoint:
    """Weights to start from, and the share of the learning rate at the step at which the run diverged.

    The schedule of a new run begins anew, and would not reach that rate in a few steps.
    """

    path: Path
    lr_factor: float


@dataclass(frozen=True)
class Attempt:
    """The first steps of a run with other settings: how many it took, its first loss, and the mean of its last ones.

    last: infinite if the run diverged.
    """

    overrides: tuple[str, ...]
    steps: int
    first: float
    last: float


def find(
    config: Train,
    evidence: Evidence,
    cause: Cause,
    keep_going: Callable[[], bool],
    start_from: Checkpoint | None = None,
) -> list[Attempt]:
    """The settings that were tried, the lowest loss first; those that diverged are last.

    The learning rate is lowered, or the threshold, or both, as long as the loss gets lower. keep_going: called before
    every step; false ends the search. start_from: the weights from which the settings start, in place of the run's own.
    """
    start, lr_factor = Setting((), config), None
    if start_from is not None:
        override = f"init_from={quote_override(relative_path(start_from.path))}"
        start, lr_factor = start.changed(override, init_from=str(start_from.path)), start_from.lr_factor
    search = Search(config.post_mortem.try_steps, keep_going, lr_factor)
    if cause.name == INPUT:
        start = start.changed("clip.nonfinite=drop", clip=replace(config.clip, nonfinite="drop"))
        search.descend([start])
    elif cause.name == OVERFLOW:
        start = start.changed("device.precision=float32", device=replace(config.device, precision="float32"))
        search.descend([start])
    elif cause.name in (EXPLOSION, ABOVE_REACH, JUMPED) and (norm := evidence.usual_norm) is not None:
        search.descend(with_threshold(start, limit) for limit in thresholds(norm))
        start = with_threshold(start, norm)
        search.descend(with_rate(start, config.optimizer.lr * factor) for factor in FACTORS)
        start = search.best or start
    if cause.name not in (INPUT, OVERFLOW) or search.best is None:
        search.descend(with_rate(start, config.optimizer.lr * factor) for factor in FACTORS)
    return sorted(search.attempts, key=lambda attempt: attempt.last)


def thresholds(norm: float) -> list[float]:
    """Thresholds from a usual norm down, by powers of ten."""
    return [norm * 10.0**-exponent for exponent in range(7)]


def with_threshold(setting: Setting, limit: float) -> Setting:
    """A setting with clip=norm at a limit, rounded to two digits."""
    limit = float(f"{limit:.2g}")
    return setting.changed("clip=norm", f"clip.max={limit:g}", clip=ClipByNorm(max=limit))


def with_rate(setting: Setting, lr: float) -> Setting:
    """A setting with another learning rate, rounded to two digits."""
    lr = float(f"{lr:.2g}")
    return setting.changed(f"optimizer.lr={lr:g}", optimizer=replace(setting.config.optimizer, lr=lr))


class Search:
    """Tries settings one after the other, and keeps the attempts.

    lr_factor: the constant share of the learning rate that the steps take, in place of the schedule's.
    """

    def __init__(self, steps: int, keep_going: Callable[[], bool], lr_factor: float | None):
        self.attempts: list[Attempt] = []
        self._steps, self._keep_going, self._lr_factor = steps, keep_going, lr_factor
        self.best: Setting | None = None
        self._lowest = math.inf

    def descend(self, settings: Iterable[Setting]) -> None:
        """Tries settings until two in a row are no better than the best of all so far."""
        worse = 0
        for setting in settings:
            if setting.overrides in [attempt.overrides for attempt in self.attempts]:
                continue
            if worse == PATIENCE or len(self.attempts) == MOST or not self._keep_going():
                break
            attempt = self._attempt(setting)
            if attempt is None:
                break
            self.attempts.append(attempt)
            if attempt.last < self._lowest:
                self.best, self._lowest, worse = setting, attempt.last, 0
            elif self.best is not None:
                worse += 1

    def _attempt(self, setting: Setting) -> Attempt | None:
        """Takes the first steps of a run; None if they were interrupted."""
        state = initial_state(setting.config)
        losses: list[float] = []
        for number, batch in zip(range(1, self._steps + 1), batches(state), strict=False):
            if not self._keep_going():
                return None
            factor = state.lr_factor(number) if self._lr_factor is None else self._lr_factor
            set_lr(state.optimizer, setting.config.optimizer.lr * factor)
            try:
                loss, report = take_step(state, batch, check=False)
                if report.dropped:
                    continue
                losses.append(float(loss))
                state.divergence.update(number, losses[-1])
            except (NonFiniteGradientError, Diverged):
                return Attempt(setting.overrides, number, losses[0] if losses else math.nan, math.inf)
        if not losses:
            return Attempt(setting.overrides, self._steps, math.nan, math.inf)
        recent = losses[-LAST:]
        return Attempt(setting.overrides, self._steps, losses[0], math.fsum(recent) / len(recent))
