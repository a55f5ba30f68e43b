"""ClipReport: what one call of `clip()` measured and did."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

SHOWN = 5  # blocks in a description


@dataclass(frozen=True, repr=False, eq=False)
class ClipReport:
    """What one call of `clip()` measured and did; tensors stay on the gradients' device until they are read.

    before, after: 0-d, the 2-norm of all gradients of the Clipper's parameters, whatever the policy measures.
    norms, limits: [blocks], in the policy's norm_type (elementwise policies: each parameter's largest element, and the
        largest bound of its elements).
    limited: [blocks], whether the block exceeded its limit (elementwise policies: any element reached its bound).
    dropped: whether the optimizer's step must be skipped.
    names: the parameters' names. parameter_before, parameter_after: [parameters], their gradients' 2-norms.
    get_labels: returns the names of the blocks. count_elements: counts the limited elements of an elementwise policy,
        and returns their share; None for other policies.

    Printing it reads from the device; `clip()` alone reads nothing.
    """

    before: Tensor
    after: Tensor
    norms: Tensor
    limits: Tensor
    limited: Tensor
    dropped: bool
    names: tuple[str, ...]
    parameter_before: Tensor
    parameter_after: Tensor
    get_labels: Callable[[], tuple[str, ...]]
    count_elements: Callable[[], Tensor] | None = None

    @cached_property
    def fraction(self) -> Tensor:
        """The share of blocks (elementwise policies: of elements) that were limited, 0-d.

        Elements are counted when this is first read: those at their bound, so that an element that was exactly there
        before counts too. Raises ClipCheckError if the gradients are no longer those that `clip()` left: read it before
        the next `clip()` or `zero_grad()`, and before the step of an optimizer that changes gradients in place, as SGD
        with `nesterov` and `foreach` does.
        """
        if self.count_elements is not None:
            return self.count_elements()
        return self.limited.sum() / torch.as_tensor(self.limited.numel(), device=self.norms.device).clamp(min=1)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The blocks' names, [blocks]; in a chain each after the label of its link."""
        return self.get_labels()

    def by_parameter(self) -> dict[str, tuple[float, float]]:
        """Each gradient's 2-norm before and after, by parameter name; 0 without a gradient. Waits for the device."""
        before, after = torch.stack([self.parameter_before, self.parameter_after]).tolist()
        return dict(zip(self.names, zip(before, after, strict=True), strict=True))

    def __str__(self) -> str:
        """One line, such as `gradient norm 12.3 -> 1 (1 of 1 blocks limited)`. Waits for the device."""
        before, after, limited = self.before.item(), self.after.item(), int(self.limited.sum())
        if self.dropped:
            return f"gradient norm {before:.4g}, step dropped"
        return f"gradient norm {before:.4g} -> {after:.4g} ({limited} of {self.limited.numel()} blocks limited)"

    __repr__ = __str__

    def describe(self) -> str:
        """Says in a few lines what was limited and by how much, the most exceeded limit first. Waits for the device."""
        norms, limits, limited = self.norms.tolist(), self.limits.tolist(), self.limited.tolist()
        lines = [str(self)]
        if bad := [name for name, (before, _) in self.by_parameter().items() if not math.isfinite(before)]:
            more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
            lines.append(f"  not finite: {', '.join(bad[:SHOWN])}{more}")
        chosen = sorted(
            (index for index, flag in enumerate(limited) if flag and not math.isnan(norms[index])),
            key=lambda i: -_times(norms[i], limits[i]),
        )
        for index in chosen[:SHOWN]:
            times = _times(norms[index], limits[index])
            lines.append(
                f"  {self.labels[index]}: {norms[index]:.4g} is {times:.3g} times its limit {limits[index]:.4g}"
            )
        if len(chosen) > SHOWN:
            lines.append(f"  and {len(chosen) - SHOWN} more")
        bounded = [index for index, limit in enumerate(limits) if 0 < limit < math.inf and norms[index] > 0]
        if bounded and not chosen:
            nearest = max(bounded, key=lambda index: norms[index] / limits[index])
            share = 100 * norms[nearest] / limits[nearest]
            lines.append(
                f"  nearest to its limit: {self.labels[nearest]}, {norms[nearest]:.4g}, "
                f"{share:.3g} % of {limits[nearest]:.4g}"
            )
        return "\n".join(lines)

    def __getstate__(self) -> dict[str, Any]:
        """Counts and names the blocks now: a pickled or copied report does not refer to the Clipper."""
        state = {**vars(self), "fraction": self.fraction, "labels": self.labels}
        return {**state, "get_labels": None, "count_elements": None}


def _times(norm: float, limit: float) -> float:
    return norm / limit if limit else math.inf
