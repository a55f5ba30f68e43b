"""The marks of parameters whose gradients have a problem, for the table of an inspection and the warnings of a run.

Each mark has one definition, in MEANINGS, which docs/troubleshooting.md explains.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gradclip.norms import tensor_norms
from trainer.config import Diagnosis

NEVER_USED, FROZEN, DEAD = "never used", "frozen", "dead"
EXPLODING, VANISHING, NON_FINITE = "exploding", "vanishing", "non-finite"
ACTIVE = 1e-5  # of the largest gradient so far: below it, a model has converged, and zeros are those of rounding
MEANINGS = {
    NEVER_USED: "backward left None: forward does not use the parameter, or detaches what depends on it",
    FROZEN: "requires_grad is false",
    DEAD: "the gradient was not 0 earlier, and has been exactly 0 at {patience} steps in a row (diagnosis.patience)",
    EXPLODING: "the gradient exceeds {explode:g} times the weight, or the average weight of the model if that is "
    "larger (diagnosis.explode), after clipping too",
    VANISHING: "the gradient has been at most the weight times the resolution of floating-point numbers, at every "
    "step so far",
    NON_FINITE: "an element of the gradient is nan or infinite",
}


class ParameterNorms(NamedTuple):
    """The 2-norms of one parameter's weight and gradient. gradient: None where backward left none.

    resolution: the relative distance between neighboring numbers of the parameter's type.
    """

    shape: tuple[int, ...]
    weight: float
    gradient: float | None
    frozen: bool = False
    resolution: float = torch.finfo(torch.float32).eps


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
            resolution=torch.finfo(parameter.dtype).eps,
        )
        for (name, parameter), weight in zip(named.items(), weights.tolist(), strict=True)
    }


def exploding(parameters: Mapping[str, ParameterNorms], explode: float) -> list[str]:
    """The names of the parameters whose gradients exceed `explode` times their weight.

    A weight counts at least as much as the model's weights do on average, since biases and some layers are
    initialized to 0.
    """
    sizes = {name: max(math.prod(norms.shape), 1) for name, norms in parameters.items()}
    typical = math.hypot(*(norms.weight for norms in parameters.values())) / math.sqrt(sum(sizes.values()))
    return [
        name
        for name, norms in parameters.items()
        if norms.gradient is not None
        and explode * max(norms.weight, typical * math.sqrt(sizes[name])) < norms.gradient < math.inf
    ]


def after_clipping(parameters: Mapping[str, ParameterNorms], after: Mapping[str, float]) -> dict[str, ParameterNorms]:
    """The parameters with their gradients' norms after clipping. after: those norms, by name."""
    return {name: norms if norms.gradient is None else norms._replace(gradient=after[name])
            for name, norms in parameters.items()}  # fmt: skip


def vanishes(norms: ParameterNorms) -> bool:
    """Whether the gradient's norm is at most that of the weight times the resolution of its type.

    Always false for parameters of fewer than two dimensions: the gradient of a bias before a normalization is 0 by
    construction.
    """
    gradient = norms.gradient
    return gradient is not None and len(norms.shape) > 1 and gradient <= norms.resolution * norms.weight


class ParameterChecks:
    """The marks of a model's parameters, from the checks of a run so far."""

    def __init__(self, limits: Diagnosis):
        self._limits = limits
        self.count = 0
        self._used: set[str] = set()  # had a gradient at some check
        self._moved: set[str] = set()  # had one that does not vanish
        self._zeros: dict[str, int] = {}  # of those whose gradient was not 0 once: the latest checks in a row with 0
        self._largest = 0.0  # the norm of all gradients

    def add(self, parameters: Mapping[str, ParameterNorms]) -> dict[str, str]:
        """Adds a check of all parameters. Returns the marks of those that have one, by name.

        A gradient of 0 counts towards a dead parameter only while the norm of all gradients is not tiny: a model that
        has converged is not dead. Neither is a parameter that only some batches use, nor one of few elements, such as a
        bias, whose gradient can be 0 by chance.
        """
        self.count += 1
        total = math.hypot(*(norms.gradient or 0.0 for norms in parameters.values()))
        self._largest = max(self._largest, total) if math.isfinite(total) else self._largest
        for name, norms in parameters.items():
            if norms.gradient is not None:
                self._used.add(name)
                if not vanishes(norms):
                    self._moved.add(name)
            if norms.gradient == 0 and name in self._zeros:
                self._zeros[name] += total > ACTIVE * self._largest
            elif name in self._zeros or (norms.gradient is not None and 0 < norms.gradient < math.inf):
                self._zeros[name] = 0
        large = set(exploding(parameters, self._limits.explode))
        marks = {name: self._mark(name, norms, name in large) for name, norms in parameters.items()}
        return {name: mark for name, mark in marks.items() if mark is not None}

    def _mark(self, name: str, norms: ParameterNorms, large: bool) -> str | None:
        if norms.gradient is None and norms.frozen:
            return FROZEN
        if name not in self._used:
            return NEVER_USED
        if norms.gradient is not None and not math.isfinite(norms.gradient):
            return NON_FINITE
        if self._zeros.get(name, 0) >= self._limits.patience and len(norms.shape) > 1 and math.prod(norms.shape) > 1:
            return DEAD
        if large:
            return EXPLODING
        return VANISHING if name not in self._moved and vanishes(norms) else None

    def state_dict(self) -> dict[str, Any]:
        """The checks so far, as plain values for a checkpoint."""
        return {"count": self.count, "used": sorted(self._used), "moved": sorted(self._moved), "zeros": self._zeros,
                "largest": self._largest}  # fmt: skip

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Restores what `state_dict` returned."""
        self.count, self._zeros, self._largest = state["count"], dict(state["zeros"]), state["largest"]
        self._used, self._moved = set(state["used"]), set(state["moved"])
