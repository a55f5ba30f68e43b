"""Which gradients explode, vanish, are zero or never come: the marks of a table, and one warning in a run's log."""

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
TABLE = "scripts/inspect_gradients.py, with the same arguments, shows every parameter"


class Measured(NamedTuple):
    """One parameter. weight, gradient: 2-norms; the gradient is None where backward left none."""

    shape: tuple[int, ...]
    weight: float
    gradient: float | None
    frozen: bool = False


def split(norms: Mapping[str, tuple[float, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """A report's norms by parameter: those before clipping, and those after."""
    return ({name: before for name, (before, _) in norms.items()}, {name: after for name, (_, after) in norms.items()})


def weight_norms(model: nn.Module) -> Tensor:
    """[parameters]: the 2-norm of each parameter of a model, in the order of `parameters()`."""
    return tensor_norms([parameter.detach() for parameter in model.parameters()], 2.0)


def measure(model: nn.Module, weights: Tensor, norms: Mapping[str, float]) -> dict[str, Measured]:
    """Every parameter of a model by name. Waits for the device once.

    weights: the `weight_norms` from which the step started. norms: those of the gradients, by parameter.
    """
    named = dict(model.named_parameters())
    return {
        name: Measured(
            shape=tuple(parameter.shape),
            weight=weight,
            gradient=None if parameter.grad is None else norms[name],
            frozen=not parameter.requires_grad,
        )
        for (name, parameter), weight in zip(named.items(), weights.tolist(), strict=True)
    }


def marks(parameters: Mapping[str, Measured], limits: Diagnosis, *, early: bool) -> dict[str, str]:
    """What is wrong with which parameter; one without a mark is well.

    Exploding: the gradient exceeds `limits.explode` times its weight, where a weight counts at least
    as much as the model's weights do on average, since biases and some layers start at 0.
    Vanishing, for weights of two and more dimensions (a bias below a normalization has no gradient by
    nature): it is, element by element, less than `limits.vanish_layer` of the largest one in the model
    or, `early` in a run, less than `limits.vanish_weight` of its own weight. Later on a small gradient
    everywhere is what one hopes for.
    """
    sizes = {name: max(math.prod(each.shape), 1) for name, each in parameters.items()}
    typical = math.hypot(*(each.weight for each in parameters.values())) / math.sqrt(sum(sizes.values()))
    rms = {
        name: each.gradient / math.sqrt(sizes[name])
        for name, each in parameters.items()
        if each.gradient is not None and len(each.shape) > 1 and math.isfinite(each.gradient)
    }
    largest = max(rms.values(), default=0.0)

    def mark(name: str, each: Measured) -> str | None:
        if each.gradient is None:
            return FROZEN if each.frozen else UNUSED
        if not math.isfinite(each.gradient):
            return NON_FINITE
        if each.gradient == 0.0:
            return ZERO
        if each.gradient > limits.explode * max(each.weight, typical * math.sqrt(sizes[name])):
            return EXPLODING
        small = name in rms and rms[name] < limits.vanish_layer * largest
        if small or (early and name in rms and each.gradient < limits.vanish_weight * each.weight):
            return VANISHING
        return None

    found = {name: mark(name, each) for name, each in parameters.items()}
    return {name: word for name, word in found.items() if word is not None}


def still_exploding(parameters: Mapping[str, Measured], after: Mapping[str, float], limits: Diagnosis) -> list[str]:
    """The parameters whose gradients explode even with the norms that clipping left."""
    given = {
        name: each if each.gradient is None else each._replace(gradient=after[name])
        for name, each in parameters.items()
    }
    return [name for name, word in marks(given, limits, early=False).items() if word == EXPLODING]


class GradientMonitor:
    """Looks at a run a few times, and warns once of each thing that is wrong.

    An explosion is judged by what the optimizer is given, the rest by what backward left.
    """

    def __init__(self, config: Train):
        self._config, self._limits = config, config.diagnosis
        self._mean, self._first, self._looks = math.nan, math.nan, 0  # the mean is of the norms' logarithms
        self._loss = math.nan
        self._idle: list[str] | None = None  # without a gradient so far
        self._warned: set[str] = set()

    def update(self, step: int, loss: float, norm: float, report: ClipReport) -> None:
        """Takes in the loss of a logged step and the norm that clipping left.

        Warns if the norm jumps far above all before and the loss has risen: a gradient also grows fast,
        and should, where a model leaves a plateau.
        """
        if not 0 < norm < math.inf:
            return
        usual = max(math.exp(self._mean), self._first)
        if norm > self._limits.explode * usual and not loss <= self._loss:
            after = {name: after for name, (_, after) in report.by_parameter().items()}
            times = f"{norm / usual:.3g} times what it was so far ({usual:.3g})"
            self._warn_of_explosion(step, f"the norm that reaches the optimizer is {norm:.3g}, {times}", after)
        if math.isnan(self._mean):
            self._mean, self._first, self._loss = math.log(norm), norm, loss
        share = 1 - self._limits.smoothing
        self._mean += (math.log(norm) - self._mean) * share
        self._loss += (loss - self._loss) * share

    def check_parameters(
        self, step: int, parameters: Mapping[str, Measured], after: Mapping[str, float], *, last: bool
    ) -> None:
        """Takes in every parameter, and the norms that clipping left, at the first step and at evaluations."""
        self._looks += 1
        found = marks(parameters, self._limits, early=step == 1)
        if exploding := {name: after[name] for name in still_exploding(parameters, after, self._limits)}:
            ratio = f"{self._limits.explode:g} times the weight"
            self._warn_of_explosion(step, f"gradients exceed {ratio} in {_few(exploding)}", exploding)
        if vanishing := [name for name, word in found.items() if word == VANISHING]:
            self._warn(VANISHING, f"gradients vanish: at step {step} those of {_few(vanishing)} are too small to teach "
                       "anything; clipping cannot fix that: try another initialization (a gain nearer to 1), "
                       f"normalization or residual layers, a shorter way back, or an LSTM. {TABLE}")  # fmt: skip
        idle = [name for name, word in found.items() if word in (UNUSED, ZERO)]
        self._idle = idle if self._idle is None else [name for name in self._idle if name in idle]
        if self._idle and (last or self._looks >= self._limits.patience):
            self._warn(UNUSED, f"no gradient: {_few(self._idle)} had none at any of {self._looks} looks up to "
                       f"step {step}; does forward use it, is something detached, are its units dead? If it is meant "
                       "to rest: requires_grad_(False)")  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: what it goes by, and what it has said."""
        return {
            "mean": self._mean,
            "first": self._first,
            "loss": self._loss,
            "looks": self._looks,
            "idle": self._idle,
            "warned": sorted(self._warned),
        }

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """From a checkpoint."""
        self._mean, self._first, self._loss = state["mean"], state["first"], state["loss"]
        self._looks, self._idle, self._warned = state["looks"], state["idle"], set(state["warned"])

    def _warn_of_explosion(self, step: int, what: str, norms: Mapping[str, float]) -> None:
        clip = self._config.clip
        most = f", most of it in {max(norms, key=lambda name: norms[name])}" if len(norms) > 1 else ""
        limit = "clip=norm" if clip.name == "none" else f"a tighter limit than that of clip={clip.name}"
        self._warn(EXPLODING, f"gradients explode: at step {step} {what}{most}; try {limit}, a smaller "
                   f"optimizer.lr, or schedule.warmup. {TABLE}")  # fmt: skip

    def _warn(self, kind: str, line: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            log.warning("warning: %s", line)


def _few(names: Iterable[str]) -> str:
    """The first three names, and how many more there are."""
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
