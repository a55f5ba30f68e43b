"""A run's first steps as a table: every weight, its gradient before and after clipping, and its update."""

import logging

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
        self._weights: dict[str, Tensor] = {}
        self._gradients: dict[str, Tensor | None] = {}

    def before(self) -> None:
        """To be called between backward and clipping, which change the gradients in place."""
        self._weights = {name: parameter.detach().clone() for name, parameter in self._named.items()}
        self._gradients = {
            name: None if parameter.grad is None else parameter.grad.clone() for name, parameter in self._named.items()
        }

    def after(self, step: int) -> None:
        """To be called after the optimizer's step; logs its rows."""
        lines = []
        if step == 1:
            lines.append("the first steps (a parameter of one element by its value, others by their 2-norms)")
            lines.append(f"{'step':>6}  {'parameter':<{self._width}}" + "".join(f"{name:>16}" for name in COLUMNS))
        for name, parameter in self._named.items():
            weight = self._weights[name]
            values = (weight, self._gradients[name], parameter.grad, parameter.detach() - weight)
            lines.append(f"{step:>6}  {name:<{self._width}}" + "".join(f"{_shown(value):>16}" for value in values))
        log.info("\n".join(lines))
        self._weights, self._gradients = {}, {}


def _shown(value: Tensor | None) -> str:
    if value is None:
        return "none"
    number = value.item() if value.numel() == 1 else torch.linalg.vector_norm(value.double()).item()
    return f"{number:.6g}"
