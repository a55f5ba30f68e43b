"""Cases of the clipping benchmarks: gradients in the shapes of known models, and ways to clip them."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from evidence.benchmarks.measure import Work
from gradclip import Clipper, LimitPolicy, Policy
from trainer.project import PROJECT, compose

Shape = tuple[int, ...]


def gradient_shapes(large: bool) -> dict[str, list[Shape]]:
    """The shapes of the gradients, by model. large: whether to add a GPT of 85 million parameters."""
    found: dict[str, list[Shape]] = {
        "200 of 32x32": [(32, 32)] * 200,
        "LSTM 5 M": [(1000, 650), *lstm(650, 650), (1000, 650), (1000,)],
        "GPT 10 M": gpt(width=320, layers=8, words=256, positions=128),
        "ResNet-18": resnet18(),
    }
    return found | ({"GPT 85 M": gpt(width=768, layers=12, words=256, positions=256)} if large else {})


def lstm(inputs: int, hidden: int) -> list[Shape]:
    return [(4 * hidden, inputs), (4 * hidden, hidden), (4 * hidden,), (4 * hidden,)]


def gpt(width: int, layers: int, words: int, positions: int) -> list[Shape]:
    norm: list[Shape] = [(width,), (width,)]
    attention: list[Shape] = [(3 * width, width), (3 * width,), (width, width), (width,)]
    perceptron: list[Shape] = [(4 * width, width), (4 * width,), (width, 4 * width), (width,)]
    return [(words, width), (positions, width), *[*norm, *attention, *norm, *perceptron] * layers, *norm]


def resnet18() -> list[Shape]:
    shapes: list[Shape] = [(64, 3, 7, 7), (64,), (64,)]
    inputs = 64
    for width in (64, 128, 256, 512):
        for _ in range(2):
            shapes += [(width, inputs, 3, 3), (width,), (width,), (width, width, 3, 3), (width,), (width,)]
            if inputs != width:
                shapes += [(width, inputs, 1, 1), (width,), (width,)]
            inputs = width
    return [*shapes, (1000, 512), (1000,)]


class Case:
    """Parameters with gradients that are restored before every measurement."""

    def __init__(self, shapes: list[Shape], dtype: torch.dtype = torch.float32):
        random = torch.Generator().manual_seed(1)
        self.parameters = [nn.Parameter(0.02 * torch.randn(shape, generator=random).to(dtype)) for shape in shapes]
        self._saved = [0.01 * torch.randn(shape, generator=random).to(dtype) for shape in shapes]
        for parameter in self.parameters:
            parameter.grad = torch.empty_like(parameter)
        self.named = [(f"layer{number}.weight", parameter) for number, parameter in enumerate(self.parameters)]
        self.optimizer = torch.optim.SGD(self.parameters, lr=0.1)
        self.restore()

    @property
    def gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]

    def restore(self) -> None:
        for gradient, saved in zip(self.gradients, self._saved, strict=True):
            gradient.copy_(saved)

    def norm(self) -> float:
        return torch.nn.utils.get_total_norm([gradient.double() for gradient in self.gradients]).item()

    def error(self, policy: Policy) -> float:
        """The largest relative error of all norms in a report, before and after clipping, against float64."""
        self.restore()
        report = Clipper(self.named, policy, optimizer=self.optimizer).clip()
        exact = [exact_norms(self._saved), exact_norms(self.gradients)]
        reported = [report.parameter_before, report.parameter_after]
        pairs = [(report.before, exact[0].norm()), (report.after, exact[1].norm()), *zip(reported, exact, strict=True)]
        return max(float(((one - other).abs() / other).max()) for one, other in pairs)

    def ours(self, policy: Policy, optimizer: torch.optim.Optimizer | None = None) -> Work:
        """Makes a work that calls `clip()` and reads both norms and those of every parameter."""
        clipper = Clipper(self.named, policy, optimizer=optimizer or self.optimizer)

        def work() -> None:
            report = clipper.clip()
            report.before.item()
            report.after.item()
            report.by_parameter()

        return work

    def torch_alone(self, limit: float) -> Work:
        return lambda: torch.nn.utils.clip_grad_norm_(self.parameters, limit)

    def by_hand(self, limit: float) -> Work:
        """Makes a work that clips by torch's function and measures all norms before and after it."""

        def work() -> None:
            before = [gradient.norm().item() for gradient in self.gradients]
            torch.nn.utils.clip_grad_norm_(self.parameters, limit)
            after = [gradient.norm().item() for gradient in self.gradients]
            assert len(before) == len(after)

        return work

    def read(self) -> Tensor:
        """Reads all gradients once, with torch's fastest kernel, whatever its accuracy."""
        return torch.stack(torch._foreach_norm(self.gradients, 2))

    def scale(self) -> None:
        torch._foreach_mul_(self.gradients, torch.tensor(0.5))

    def read_and_scale(self) -> None:
        self.read()
        self.scale()

    def by_hand_value(self, limit: float) -> Work:
        def work() -> None:
            torch.nn.utils.get_total_norm(self.gradients).item()
            torch.nn.utils.clip_grad_value_(self.parameters, limit)
            torch.nn.utils.get_total_norm(self.gradients).item()

        return work


def exact_norms(tensors: list[Tensor]) -> Tensor:
    """The 2-norm of each tensor, [tensors], in float64."""
    return torch.stack([tensor.double().square().sum().sqrt() for tensor in tensors])


# The keys of a policy with which it limits nothing, beside a large `max`.
NOT_LIMITING: dict[str, dict[str, Any]] = {
    "autoclip": {"percentile": 100.0},
    "agc": {"ratio": 1e9},
    "quantile": {"initial": 1e9},
    "adagc": {"warmup_max": 1e9},
    "zclip": {"threshold": 1e9},
}


def limiting() -> Iterator[tuple[Policy, str]]:
    """Yields every policy that limits or rescales, at the scopes model and parameter, and whether it scales."""
    for name in sorted(PROJECT.groups["clip"].options):
        policy = from_conf(name)
        for scope in ("model", "parameter"):
            if isinstance(policy, LimitPolicy) and policy.kind in ("limit", "rescale") and scope in policy.scopes:
                yield replace(policy, scope=scope, max=1e-3), "scales"
                if policy.kind == "limit":
                    limit = None if policy.max_is_cap else 1e9
                    yield replace(policy, scope=scope, max=limit, **NOT_LIMITING.get(name, {})), "nothing exceeds"


@cache
def from_conf(name: str) -> Policy:
    return compose(f"clip={name}").clip
