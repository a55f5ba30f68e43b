"""Limits that adapt to the norms of earlier steps. Every memory is a few numbers per block, on the gradients' device.

A norm enters a memory only if it is finite and above 0 (`Measured.seen`), so that neither a nan nor a zero or missing
gradient can corrupt it. The additional cap `max` is applied last: memories take the norms without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from gradclip.errors import InvalidField
from gradclip.fields import checked_dataclass, field
from gradclip.policies.base import INFINITY, SCOPES_WITHOUT_UNIT, LimitPolicy, Measured, Memory

if TYPE_CHECKING:
    from torch import Tensor


@checked_dataclass
class AutoClip(LimitPolicy):
    """Limits a norm to a percentile of all norms so far, the current one included: L = percentile(‖g_1‖, …, ‖g_t‖).

    Source: Seetharaman, Wichern, Pardo, Le Roux 2020, "AutoClip: Adaptive Gradient Clipping for Source Separation
    Networks", arXiv:2007.14469, Algorithm 1; linear interpolation between ranks. The paper keeps all norms; here the
    last `window` of them, or all with window=0.

    >>> import torch
    >>> from gradclip import AutoClip, Clipper
    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> clipper = Clipper([("weight", weight)], AutoClip(percentile=50.0))
    >>> for norm in (1.0, 2.0, 9.0):
    ...     weight.grad = torch.tensor([norm])
    ...     print(clipper.clip())
    gradient norm 1 -> 1 (0 of 1 blocks limited)
    gradient norm 2 -> 1.5 (1 of 1 blocks limited)
    gradient norm 9 -> 2 (1 of 1 blocks limited)
    """

    name: str = "autoclip"
    percentile: float = field("the percentile of the norms so far, in per cent", default=10.0, ge=0, le=100)
    window: int = field("the number of norms that are kept; 0 for all, as published", default=1000, ge=0)

    scopes: ClassVar[tuple[str, ...]] = SCOPES_WITHOUT_UNIT

    def limits(self, measured: Measured, memory: Memory) -> tuple[Tensor, Memory]:
        norms, seen = measured.norms, measured.seen
        count = memory.get("count", norms.new_zeros(len(norms)))
        past = memory.get("norms", norms.new_full((len(norms), self.window), INFINITY))
        if self.window == 0:
            extended = norms.new_full((len(norms), past.shape[1] + 1), INFINITY)
            extended[:, :-1], extended[:, -1] = past, norms.where(seen, INFINITY)
            past = extended
        else:
            index = count.remainder(self.window).long().unsqueeze(1)
            newest = norms.where(seen, past.gather(1, index).squeeze(1))
            past = past.scatter(1, index, newest.unsqueeze(1))
        count = count + seen
        return self._percentile(past, count), {"count": count, "norms": past}

    def _percentile(self, past: Tensor, count: Tensor) -> Tensor:
        """The percentile of each row of `past`, [blocks]; inf for a row without a norm. Unset entries are inf."""
        quantile, size = self.percentile / 100, past.shape[1]
        last = count.clamp(1, size) - 1
        rank = last * quantile
        low = rank.floor()
        smallest = past.topk(min(int((size - 1) * quantile) + 2, size), dim=1, largest=False).values
        below, above = (
            smallest.gather(1, index.long().unsqueeze(1)).squeeze(1) for index in (low, (low + 1).minimum(last))
        )
        return (below + (above - below) * (rank - low)).where(count > 0, INFINITY)


@checked_dataclass
class ZClip(LimitPolicy):
    """Limits a norm whose z-score z = (‖g‖ - μ) / (σ + eps) exceeds z* = `threshold` to L = μ + z*² · σ / z.

    Source: Kumar, Owen, Chowdhury, Güra 2025, "ZClip: Adaptive Spike Mitigation for LLM Pre-Training",
    arXiv:2504.02507, Algorithm 1. After a warm-up over unclipped norms, μ and σ² are exponential averages of the
    clipped norms.

    >>> import torch
    >>> from gradclip import ZClip, Clipper
    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> clipper = Clipper([("weight", weight)], ZClip(warmup=3, max=None))
    >>> for norm in (1.0, 1.2, 0.8, 9.0):
    ...     weight.grad = torch.tensor([norm])
    ...     print(clipper.clip())
    gradient norm 1 -> 1 (0 of 1 blocks limited)
    gradient norm 1.2 -> 1.2 (0 of 1 blocks limited)
    gradient norm 0.8 -> 0.8 (0 of 1 blocks limited)
    gradient norm 9 -> 1.021 (1 of 1 blocks limited)
    """

    name: str = "zclip"
    max: float | None = field(
        "an additional cap on the norm, also during warm-up; null for none", default=1.0, gt=0, infinite=True
    )
    alpha: float = field("weight of the past in mean and variance", default=0.97, ge=0, lt=1)
    threshold: float = field("the z-score above which a norm is a spike", default=2.5, gt=0)
    mode: str = field(
        "what a spike is reduced to: reciprocal, the lower the higher the spike; mean; or max, the threshold itself",
        default="reciprocal",
        choices=("reciprocal", "mean", "max"),
    )
    warmup: int = field("the number of first norms, whose mean and variance the averages start from", default=25, ge=1)
    eps: float = field("added to the standard deviation", default=1e-6, ge=0)

    scopes: ClassVar[tuple[str, ...]] = SCOPES_WITHOUT_UNIT

    def limits(self, measured: Measured, memory: Memory) -> tuple[Tensor, Memory]:
        norms, seen = measured.norms, measured.seen
        zero = norms.new_zeros(len(norms))
        count, mean, variance = (memory.get(name, zero) for name in ("count", "mean", "variance"))
        deviation = variance.sqrt()
        z = (norms - mean) / (deviation + self.eps)
        spike = (count >= self.warmup) & (z > self.threshold)
        target = {
            "reciprocal": mean + self.threshold * deviation / (z / self.threshold),
            "mean": mean,
            "max": mean + self.threshold * deviation,
        }[self.mode]
        limits = target.where(spike, INFINITY)

        value = norms.where(~spike, target)
        weight = (1 / (count + 1)).where(count < self.warmup, 1 - self.alpha)
        new_mean = mean + weight * (value - mean)
        # In the warm-up the population variance (Welford's update), then the average around the new mean.
        population = variance + weight * ((value - mean) * (value - new_mean) - variance)
        averaged = self.alpha * variance + (1 - self.alpha) * (value - new_mean) ** 2
        new_variance = population.where(count < self.warmup, averaged)
        return limits, {
            "count": count + seen,
            "mean": new_mean.where(seen, mean),
            "variance": new_variance.where(seen, variance),
        }


@checked_dataclass
class AdaGC(LimitPolicy):
    """Limits each block to slightly more than the running average γ of its own clipped norms: L = ratio · γ.

    Source: Wang et al. 2025, "AdaGC: Improving Training Stability for Large Language Model Pretraining",
    arXiv:2502.11034, Algorithm 1. γ ← beta · γ + (1 - beta) · ‖g after‖; during the warm-up the global norm is limited
    to `warmup_max`, and γ is the block's smallest norm.

    >>> import torch
    >>> from gradclip import AdaGC, Clipper
    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> clipper = Clipper([("weight", weight)], AdaGC(warmup=2))
    >>> for norm in (1.0, 1.0, 9.0):
    ...     weight.grad = torch.tensor([norm])
    ...     print(clipper.clip())
    gradient norm 1 -> 1 (0 of 1 blocks limited)
    gradient norm 1 -> 1 (0 of 1 blocks limited)
    gradient norm 9 -> 1.05 (1 of 1 blocks limited)
    """

    name: str = "adagc"
    scope: str = field("what is measured together", default="parameter", choices=SCOPES_WITHOUT_UNIT)
    ratio: float = field("the largest norm, as a multiple of its average", default=1.05, gt=0)
    beta: float = field("weight of the past in the average", default=0.98, ge=0, lt=1)
    warmup: int = field("the number of first norms, during which the global norm is limited", default=100, ge=0)
    warmup_max: float = field("the largest global norm during the warm-up", default=1.0, gt=0, infinite=True)

    scopes: ClassVar[tuple[str, ...]] = SCOPES_WITHOUT_UNIT

    def limits(self, measured: Measured, memory: Memory) -> tuple[Tensor, Memory]:
        norms, seen = measured.norms, measured.seen
        count = memory.get("count", norms.new_zeros(len(norms)))
        average = memory.get("average", norms.new_full((len(norms),), INFINITY))
        warm = count < self.warmup
        together = norms * (self.warmup_max / measured.total).clamp(max=1.0)
        limits = together.where(warm & seen, (self.ratio * average).where(~warm, INFINITY))
        after = norms.minimum(limits)
        smallest = average.minimum(after)
        running = (self.beta * average + (1 - self.beta) * after).where(average.isfinite(), after)
        return limits, {
            "count": count + seen,
            # A nan in another block makes the global norm nan, and with it this block's norm in the warm-up.
            "average": smallest.where(warm, running).where(seen & after.isfinite(), average),
        }


@checked_dataclass
class EMAClip(LimitPolicy):
    """Limits each block to a multiple of the running average γ of its own clipped norms: L = ratio · γ.

    Source: the per-parameter clipping of OLMo's public training code (Groeneveld et al. 2024, arXiv:2402.00838).
    γ ← beta · γ + (1 - beta) · ‖g after‖, which starts as the first norm; nothing is limited during the warm-up.

    >>> import torch
    >>> from gradclip import EMAClip, Clipper
    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> clipper = Clipper([("weight", weight)], EMAClip(ratio=2.0, warmup=2))
    >>> for norm in (1.0, 1.0, 9.0):
    ...     weight.grad = torch.tensor([norm])
    ...     print(clipper.clip())
    gradient norm 1 -> 1 (0 of 1 blocks limited)
    gradient norm 1 -> 1 (0 of 1 blocks limited)
    gradient norm 9 -> 2 (1 of 1 blocks limited)
    """

    name: str = "ema"
    scope: str = field("what is measured together", default="parameter", choices=SCOPES_WITHOUT_UNIT)
    ratio: float = field("the largest norm, as a multiple of its average", default=2.0, gt=0)
    beta: float = field("weight of the past in the average", default=0.99, ge=0, lt=1)
    warmup: int = field("the number of first norms, which are averaged and not limited", default=100, ge=1)

    scopes: ClassVar[tuple[str, ...]] = SCOPES_WITHOUT_UNIT

    def limits(self, measured: Measured, memory: Memory) -> tuple[Tensor, Memory]:
        norms, seen = measured.norms, measured.seen
        zero = norms.new_zeros(len(norms))
        count, average = memory.get("count", zero), memory.get("average", zero)
        limits = (self.ratio * average).where(count >= self.warmup, INFINITY)
        after = norms.minimum(limits)
        running = (self.beta * average + (1 - self.beta) * after).where(count > 0, after)
        return limits, {"count": count + seen, "average": running.where(seen, average)}


@checked_dataclass
class QuantileClip(LimitPolicy):
    """Adapts the limit until a target share of the norms is within it: L ← L · exp(-lr · (1[‖g‖ ≤ L] - target)).

    Source: Andrew, Thakkar, McMahan, Ramaswamy 2021, "Differentially Private Learning with Adaptive Clipping",
    arXiv:1905.03871, section 2.1, without the noise; the same update as in Opacus.

    >>> import torch
    >>> from gradclip import QuantileClip, Clipper
    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> clipper = Clipper([("weight", weight)], QuantileClip(target=0.5, initial=2.0))
    >>> for norm in (9.0, 9.0, 1.0):
    ...     weight.grad = torch.tensor([norm])
    ...     print(clipper.clip())
    gradient norm 9 -> 2 (1 of 1 blocks limited)
    gradient norm 9 -> 2.21 (1 of 1 blocks limited)
    gradient norm 1 -> 1 (0 of 1 blocks limited)
    """

    name: str = "quantile"
    target: float = field("the share of norms that should be within the limit", default=0.5, ge=0, le=1)
    lr: float = field("the step size of the limit, on a logarithmic scale", default=0.2, gt=0)
    initial: float = field("the limit of the first step", default=1.0, gt=0)
    lower: float = field("the smallest limit", default=0.0, ge=0)
    upper: float = field("the largest limit", default=INFINITY, gt=0, infinite=True)

    scopes: ClassVar[tuple[str, ...]] = SCOPES_WITHOUT_UNIT

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.lower <= self.initial <= self.upper:
            raise InvalidField("initial", self.initial, f"from lower={self.lower:g} to upper={self.upper:g}")

    def limits(self, measured: Measured, memory: Memory) -> tuple[Tensor, Memory]:
        norms = measured.norms
        limits = memory.get("limits", norms.new_full((len(norms),), self.initial))
        within = (norms <= limits).to(norms.dtype)
        moved = (limits * (-self.lr * (within - self.target)).exp()).clamp(self.lower, self.upper)
        return limits, {"limits": moved.where(measured.seen, limits)}
