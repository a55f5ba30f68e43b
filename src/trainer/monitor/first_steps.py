"""A run's first steps as a table: every weight, its gradient before and after clipping, and its update."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

COLUMNS = ("weight", "gradient", "after clipping", "update")


class FirstSteps:
    """Logs a row for every parameter at each of the first steps: its value if it has one element, else its 2-norm."""

    def __init__(self, model: nn.Module, steps: int):
        self.steps = steps
        self._named = dict(model.named_parameters())
        self._width = max(len(name) for name in self._named)
        self._before: list[tuple[str, str]] = []

    def before_clipping(self) -> None:
        """Reads weights and gradients; to be called after backward, before clipping changes the gradients."""
        self._before = [(_format(p.detach()), _format(p.grad)) for p in self._named.values()]

    def after_step(self, step: int, weights: Sequence[Tensor]) -> None:
        """Logs the step's rows. weights: the parameters as they were before the step, in their order."""
        lines = []
        if step == 1:
            lines.append("the first steps (a parameter of one element by its value, others by their 2-norms)")
            lines.append(f"{'step':>6}  {'parameter':<{self._width}}" + "".join(f"{name:>16}" for name in COLUMNS))
        for (name, parameter), before, weight in zip(self._named.items(), self._before, weights, strict=True):
            values = (*before, _format(parameter.grad), _format(parameter.detach() - weight))
            lines.append(f"{step:>6}  {name:<{self._width}}" + "".join(f"{value:>16}" for value in values))
        log.info("\n".join(lines))


def _format(value: Tensor | None) -> str:
    if value is None:
        return "none"
    number = value.item() if value.numel() == 1 else torch.linalg.vector_norm(value.double()).item()
    return f"{number:.6g}"
