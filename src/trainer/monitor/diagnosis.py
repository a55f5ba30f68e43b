"""Detection of exploding, vanishing, zero and missing gradients, for the table of an inspection and a run's log."""

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from gradclip import ClipReport
from gradclip.norms import tensor_norms
from trainer.config import Diagnosis, Train

log = logging.getLogger(__name__)

UNUSED, FROZEN, ZERO = "unused", "frozen", "zero"
EXPLODING, VANISHING, NON_FINITE = "exploding", "vanishing", "non-finite"
INSPECT_HINT = "scripts/inspect_gradients.py, with the same arguments, shows every parameter"


class ParameterNorms(NamedTuple):
    """The 2-norms of one parameter's weight and gradient. gradient: None where backward left none."""

    shape: tuple[int, ...]
    weight: float
    gradient: float | None
    frozen: bool = False


def split_norms(norms: Mapping[str, tuple[float, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """A report's norms by parameter: those before clipping, and those after."""
    return ({name: before for name, (before, _) in norms.items()}, {name: after for name, (_, after) in norms.items()})


def weight_norms(model: nn.Module) -> Tensor:
    """[parameters]: the 2-norm of each parameter of a model, in the order of `parameters()`."""
    return tensor_norms([parameter.detach() for parameter in model.parameters()], 2.0)


def measure(model: nn.Module, weights: Tensor, norms: Mapping[str, float]) -> dict[str, ParameterNorms]:
    """The norms of every parameter of a model, by name. Waits for the device once.

    weights: the `weight_norms` before the step. norms: the gradients' norms before clipping, by parameter.
    """
    named = dict(model.named_parameters())
    return {
        name: ParameterNorms(
            shape=tuple(parameter.shape),
            weight=weight,
            gradient=None if parameter.grad is None else norms[name],
            frozen=not parameter.requires_grad,
        )
        for (name, parameter), weight in zip(named.items(), weights.tolist(), strict=True)
    }


def mark_parameters(parameters: Mapping[str, ParameterNorms], limits: Diagnosis, *, early: bool) -> dict[str, str]:
    """The marks of the parameters whose gradients have a problem, by name.

    Exploding: the gradient exceeds `limits.explode` times its weight. A weight counts at least as much as the
    model's weights do on average, since biases and some layers are initialized to 0.
    Vanishing, for parameters of two and more dimensions (the gradient of a bias before a normalization is 0 by
    construction): the gradient's root mean square is less than `limits.vanish_layer` of the largest one in the model.
    `early` in a run also: its norm is less than `limits.vanish_weight` of its weight's. Later in a run, small gradients
    everywhere are a sign of convergence.
    """
    sizes = {name: max(math.prod(norms.shape), 1) for name, norms in parameters.items()}
    typical = math.hypot(*(norms.weight for norms in parameters.values())) / math.sqrt(sum(sizes.values()))
    rms = {
        name: norms.gradient / math.sqrt(sizes[name])
        for name, norms in parameters.items()
        if norms.gradient is not None and len(norms.shape) > 1 and math.isfinite(norms.gradient)
    }
    largest = max(rms.values(), default=0.0)

    def mark(name: str, norms: ParameterNorms) -> str | None:
        if norms.gradient is None:
            return FROZEN if norms.frozen else UNUSED
        if not math.isfinite(norms.gradient):
            return NON_FINITE
        if norms.gradient == 0.0:
            return ZERO
        if norms.gradient > limits.explode * max(norms.weight, typical * math.sqrt(sizes[name])):
            return EXPLODING
        small = name in rms and rms[name] < limits.vanish_layer * largest
        if small or (early and name in rms and norms.gradient < limits.vanish_weight * norms.weight):
            return VANISHING
        return None

    marks = {name: mark(name, norms) for name, norms in parameters.items()}
    return {name: text for name, text in marks.items() if text is not None}


def still_exploding(
    parameters: Mapping[str, ParameterNorms], after: Mapping[str, float], limits: Diagnosis
) -> list[str]:
    """The names of the parameters whose gradients explode after clipping too. after: the norms after clipping."""
    clipped = {
        name: norms if norms.gradient is None else norms._replace(gradient=after[name])
        for name, norms in parameters.items()
    }
    return [name for name, mark in mark_parameters(clipped, limits, early=False).items() if mark == EXPLODING]


class GradientMonitor:
    """Warns once of each kind of problem that a run's gradients have.

    Explosions are judged by the gradients after clipping, other problems by those before.
    """

    def __init__(self, config: Train):
        self._config, self._limits = config, config.diagnosis
        self._log_mean, self._first, self._loss = math.nan, math.nan, math.nan  # the mean is of the norms' logarithms
        self._checks = 0
        self._without_gradient: list[str] | None = None  # the parameters that had none at any check
        self._warned: set[str] = set()

    def update(self, step: int, loss: float, norm: float, report: ClipReport) -> None:
        """Adds the loss of a logged step and the norm of all gradients after clipping.

        Warns if the norm exceeds `diagnosis.explode` times its usual value and the loss has risen. Where a model leaves
        a plateau, its gradient grows fast as well, but its loss falls.
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

    def check_parameters(
        self, step: int, parameters: Mapping[str, ParameterNorms], after: Mapping[str, float], *, last: bool
    ) -> None:
        """Checks every parameter, at the first step and at evaluations. after: the norms after clipping, by name.

        last: whether the step is the run's last one, after which a missing gradient is reported in any case.
        """
        self._checks += 1
        marks = mark_parameters(parameters, self._limits, early=step == 1)
        if exploding := {name: after[name] for name in still_exploding(parameters, after, self._limits)}:
            ratio = f"{self._limits.explode:g} times the weight"
            self._warn_of_explosion(step, f"gradients exceed {ratio} in {_first_three(exploding)}", exploding)
        if vanishing := [name for name, mark in marks.items() if mark == VANISHING]:
            self._warn(VANISHING, f"gradients vanish: at step {step} those of {_first_three(vanishing)} are too small "
                       "to change the weights; clipping cannot fix that: try another initialization (a gain nearer to "
                       "1), normalization or residual layers, fewer layers or time steps, or an LSTM. "
                       f"{INSPECT_HINT}")  # fmt: skip
        missing = [name for name, mark in marks.items() if mark in (UNUSED, ZERO)]
        earlier = self._without_gradient
        self._without_gradient = missing if earlier is None else [name for name in earlier if name in missing]
        if self._without_gradient and (last or self._checks >= self._limits.patience):
            self._warn(UNUSED, f"no gradient: {_first_three(self._without_gradient)} had none at any of {self._checks} "
                       f"checks up to step {step}; does forward use it, is something detached, are its units dead? If "
                       "it is not meant to be trained: requires_grad_(False)")  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """The means, the count of checks and the warnings given so far, as plain values for a checkpoint."""
        return {
            "log_mean": self._log_mean,
            "first": self._first,
            "loss": self._loss,
            "checks": self._checks,
            "without_gradient": self._without_gradient,
            "warned": sorted(self._warned),
        }

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Restores what `state_dict` returned."""
        self._log_mean, self._first, self._loss = state["log_mean"], state["first"], state["loss"]
        self._checks, self._without_gradient = state["checks"], state["without_gradient"]
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
