"""The warnings of a run's log about its gradients and updates."""

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

from gradclip import ClipReport
from trainer.config import Train
from trainer.monitor.marks import (
    DEAD,
    EXPLODING,
    NEVER_USED,
    VANISHING,
    ParameterChecks,
    ParameterNorms,
    after_clipping,
    exploding,
    split_norms,
)

log = logging.getLogger(__name__)

LARGE_UPDATES, SMALL_UPDATES = "large updates", "small updates"
NEAR_PEAK = 0.5  # of the peak learning rate: below it, small updates are what the schedule is for
INSPECT_HINT = "scripts/inspect_gradients.py, with the same arguments, shows every parameter"


class GradientMonitor:
    """Warns once of each kind of problem that a run's gradients and updates have.

    Explosions are judged by the gradients after clipping, other problems of gradients by those before.
    """

    def __init__(self, config: Train):
        self._config, self._limits = config, config.diagnosis
        self._log_mean, self._first, self._loss = math.nan, math.nan, math.nan  # the mean is of the norms' logarithms
        self._checks = ParameterChecks(config.diagnosis)
        self._exploding: set[str] = set()  # at the latest check
        self._updates = 0  # measured near the peak learning rate
        self._large = 0  # the latest of all measurements in a row that were too large
        self._all_small = True  # those near the peak learning rate, so far
        self._lowest = math.inf  # the lowest smoothed loss at a measurement
        self._warned: set[str] = set()

    def update(self, step: int, loss: float, norm: float, report: ClipReport) -> None:
        """Adds the loss of a logged step and the norm of all gradients after clipping.

        Warns if the norm exceeds `diagnosis.explode` times its usual value, or times the first one if that is larger,
        and the loss has risen. Where a model leaves a plateau, its gradient grows fast as well, but its loss falls.
        """
        if not 0 < norm < math.inf:
            return
        usual = max(math.exp(self._log_mean), self._first)
        if norm > self._limits.explode * usual and not loss <= self._loss:
            _, after = split_norms(report.by_parameter())
            times = f"{norm / usual:.3g} times the usual one ({usual:.3g})"
            kind = "" if self._config.clip.name == "none" else "after clipping "
            self._warn_of_explosion(step, f"the norm {kind}is {norm:.3g}, {times}", after)
        if math.isnan(self._log_mean):
            self._log_mean, self._first, self._loss = math.log(norm), norm, loss
        share = 1 - self._limits.smoothing
        self._log_mean += (math.log(norm) - self._log_mean) * share
        self._loss += (loss - self._loss) * share

    def check_update(self, step: int, ratio: float, lr_factor: float) -> None:
        """Adds a measured update: the norm of the weights' change at this step, divided by the norm of the weights.

        lr_factor: the learning rate of the step as a share of its peak. To be called after `update`, whose smoothed
        loss it uses. Warns if `diagnosis.patience` updates in a row exceed `diagnosis.update_max`, and if the loss is
        at its lowest although all updates so far were below `diagnosis.update_min`, except those at less than half of
        the peak learning rate. Small updates later are a sign of convergence.
        """
        limits = self._limits
        self._large = self._large + 1 if ratio > limits.update_max else 0
        if self._large >= limits.patience:
            self._warn(LARGE_UPDATES, f"large updates: {self._large} measured in a row, up to step {step}, changed the "
                       f"weights by more than {limits.update_max:g} of their norm (the latest: {ratio:.3g}); try a "
                       "smaller optimizer.lr, or schedule.warmup")  # fmt: skip
        if lr_factor >= NEAR_PEAK:
            self._updates += 1
            self._all_small = self._all_small and ratio < limits.update_min
        is_lowest, self._lowest = self._loss < self._lowest < math.inf, min(self._lowest, self._loss)
        if self._all_small and is_lowest and self._updates >= limits.patience:
            self._warn(SMALL_UPDATES, f"small updates: each of the {self._updates} measured up to step {step} changed "
                       f"the weights by less than {limits.update_min:g} of their norm (the latest: {ratio:.3g}), and "
                       "the loss is at its lowest; try a larger optimizer.lr")  # fmt: skip

    def check_parameters(
        self, step: int, parameters: Mapping[str, ParameterNorms], after: Mapping[str, float], *, last: bool
    ) -> None:
        """Checks every parameter, at the first step and at evaluations. after: the norms after clipping, by name.

        A parameter explodes if it does at two checks in a row: at the first step, a large gradient may belong to an
        error that one step corrects. last: whether the step is the run's last one, after which parameters that were
        never used are reported in any case.
        """
        marks = self._checks.add(parameters)
        large = exploding(after_clipping(parameters, after), self._limits.explode)
        if names := [name for name in large if name in self._exploding]:
            ratio = f"{self._limits.explode:g} times the weight"
            largest = {name: after[name] for name in names}
            self._warn_of_explosion(step, f"gradients exceed {ratio} in {_first_three(names)}", largest)
        self._exploding = set(large)
        marked = {mark: [name for name, found in marks.items() if found == mark] for mark in set(marks.values())}
        if dead := marked.get(DEAD):
            self._warn(DEAD, f"dead parameters: the gradient of {_first_three(dead)} was not 0 before, and has been "
                       f"exactly 0 at {self._limits.patience} checks in a row, up to step {step}; dead units do not "
                       "recover: try a smaller optimizer.lr, a lower threshold of clipping, or another nonlinearity "
                       "than ReLU")  # fmt: skip
        checks, enough = f"{self._checks.count} checks up to step {step}", self._checks.count >= self._limits.patience
        if enough and (vanishing := marked.get(VANISHING)):
            resolution = parameters[vanishing[0]].resolution
            self._warn(VANISHING, f"gradients vanish: those of {_first_three(vanishing)} were at most {resolution:.2g} "
                       f"times the weight at each of {checks}; clipping cannot fix that: try another initialization "
                       "(a gain nearer to 1), normalization or residual layers, fewer layers or time steps, or an "
                       f"LSTM. {INSPECT_HINT}")  # fmt: skip
        if (enough or last) and (unused := marked.get(NEVER_USED)):
            self._warn(NEVER_USED, f"never used: {_first_three(unused)} had no gradient at any of {checks}; does "
                       "forward use them, or is something detached? If they are not meant to be trained: "
                       "requires_grad_(False)")  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """The means, the checks and the warnings given so far, as plain values for a checkpoint."""
        return {
            "log_mean": self._log_mean,
            "first": self._first,
            "loss": self._loss,
            "checks": self._checks.state_dict(),
            "exploding": sorted(self._exploding),
            "updates": self._updates,
            "large": self._large,
            "all_small": self._all_small,
            "lowest": self._lowest,
            "warned": sorted(self._warned),
        }

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Restores what `state_dict` returned."""
        self._log_mean, self._first, self._loss = state["log_mean"], state["first"], state["loss"]
        self._checks.load_state_dict(state["checks"])
        self._exploding = set(state["exploding"])
        self._updates, self._large = state["updates"], state["large"]
        self._all_small, self._lowest = state["all_small"], state["lowest"]
        self._warned = set(state["warned"])

    def _warn_of_explosion(self, step: int, what: str, norms: Mapping[str, float]) -> None:
        clip = self._config.clip
        largest = f", the largest in {max(norms, key=lambda name: norms[name])}" if len(norms) > 1 else ""
        limit = "clip=norm" if clip.name == "none" else f"a lower limit than that of clip={clip.name}"
        self._warn(EXPLODING, f"gradients explode: at step {step} {what}{largest}; try {limit}, a smaller "
                   f"optimizer.lr, or schedule.warmup. {INSPECT_HINT}")  # fmt: skip

    def _warn(self, kind: str, line: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            log.warning("warning: %s", line)


def _first_three(names: Iterable[str]) -> str:
    """The first three names, and the number of the others."""
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
