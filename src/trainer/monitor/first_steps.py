"""The log's table of a run's first steps: every weight, its gradient before and after clipping, and its update."""

import logging
from collections.abc import Sequence

from torch import Tensor, nn

from gradclip.norms import tensor_norms

log = logging.getLogger(__name__)

COLUMNS = ("weight", "gradient", "after clipping", "update")


class FirstSteps:
    """Logs a row per parameter at each of the first steps: values for a parameter of one element, else 2-norms."""

    def __init__(self, model: nn.Module, steps: int):
        self.steps = steps
        self._named = dict(model.named_parameters())
        self._width = max(len(name) for name in self._named)
        self._before: list[tuple[str, str]] = []

    def before_clipping(self) -> None:
        """Records weights and gradients. To be called after backward, before clipping changes the gradients."""
        self._before = [(_format(p.detach()), _format(p.grad)) for p in self._named.values()]

    def after_step(self, step: int, weights: Sequence[Tensor]) -> None:
        """Logs the step's rows. weights: a snapshot of the parameters before it, in the order of `parameters()`."""
        lines = []
        if step == 1:
            lines.append("the first steps (the value of a parameter of one element, the 2-norm of others)")
            lines.append(f"{'step':>6}  {'parameter':<{self._width}}" + "".join(f"{name:>16}" for name in COLUMNS))
        for (name, parameter), before, weight in zip(self._named.items(), self._before, weights, strict=True):
            values = (*before, _format(parameter.grad), _format(parameter.detach() - weight))
            lines.append(f"{step:>6}  {name:<{self._width}}" + "".join(f"{value:>16}" for value in values))
        log.info("\n".join(lines))


def _format(value: Tensor | None) -> str:
    if value is None:
        return "none"
    number = value.item() if value.numel() == 1 else tensor_norms([value]).item()
    return f"{number:.6g}"
