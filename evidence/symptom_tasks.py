"""The problems of symptoms.py: each makes a model, and has one symptom built in. All numbers are float64."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

normal = partial(torch.randn, dtype=torch.float64)
linear = partial(nn.Linear, dtype=torch.float64)


class Task(NamedTuple):
    """A problem. loss: of a new batch at a step, counted from 0. test: what a run is judged by, without spikes."""

    model: nn.Module
    loss: Callable[[int], Tensor]
    test: Callable[[], Tensor]


def weights(*sizes: int) -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(size, dtype=torch.float64)) for size in sizes]


def chance(probability: float) -> bool:
    return bool(torch.rand(()) < probability)


def explosions() -> Task:
    """A recurrent product of 30 factors 1 + w·x, whose gradient has a heavy tail; the target is another product."""
    target, start = (nn.functional.normalize(normal(4), dim=0) for _ in range(2))
    w = nn.Parameter(start)
    test = 0.3 * normal(500, 30, 4)

    def error(x: Tensor, noise: float) -> Tensor:
        wanted = (1 + x @ target).prod(1) + noise * normal(len(x))
        return ((1 + x @ w).prod(1) - wanted).square().mean()

    return Task(nn.ParameterList([w]), lambda _: error(0.3 * normal(16, 30, 4), 0.1), lambda: error(test, 0.0))


def drift() -> Task:
    """A regression that starts 10,000 away, so that its norm falls by 1e6; every 50th batch is 30 times larger."""
    (w,) = weights(20)
    target = 1e4 * nn.functional.normalize(normal(20), dim=0)

    def loss(step: int) -> Tensor:
        x = normal(16, 20) * (30 if step % 50 == 25 else 1)
        return (x @ (w - target) - 0.01 * normal(16)).square().mean()

    return Task(nn.ParameterList([w]), loss, lambda: (w - target).square().sum())


def spikes() -> Task:
    """A regression with Adam; at steps 200, 300, … 700 of 1,000 its gradient is noise that is far larger."""
    (w,) = weights(20)
    target = normal(20)

    def loss(step: int) -> Tensor:
        x = normal(16, 20)
        error = (x @ (w - target) - 0.1 * normal(16)).square().mean()
        return error + 1000 * w @ normal(20) if 200 <= step <= 700 and step % 100 == 0 else error

    return Task(nn.ParameterList([w]), loss, lambda: (w - target).square().sum())


def elements() -> Task:
    """A quadratic bowl in 200 dimensions; the noise of each element is heavy-tailed, without a finite mean."""
    (w,) = weights(200)
    target = normal(200)

    def loss(_: int) -> Tensor:
        noise = 0.3 * normal(200) / torch.rand(200, dtype=torch.float64)
        return (0.5 * (w - target).square() + noise * w).sum()

    return Task(nn.ParameterList([w]), loss, lambda: (w - target).square().mean())


def sizes() -> Task:
    """A bowl whose elements differ in size by 1,000, with skewed noise; from step 100 on 0.2 % of it is spikes."""
    (w,) = weights(100)
    target, size = normal(100), torch.logspace(0, -3, 100, dtype=torch.float64)

    def loss(step: int) -> Tensor:
        noise = 0.3 * (torch.empty(100, dtype=torch.float64).exponential_() - 1)
        if step >= 100:
            noise = torch.where(torch.rand(100) < 0.002, 1000 * noise, noise)
        return (size * (0.5 * (w - target).square() + noise * w)).sum()

    return Task(nn.ParameterList([w]), loss, lambda: (w - target).square().mean())


def layers() -> Task:
    """Two heads; the loss of one weighs 1,000 times as much, its inputs are 10 times larger in 30 % of the steps."""
    small, large = linear(10, 1), linear(10, 1)
    targets = normal(2, 10)

    def loss(_: int) -> Tensor:
        x = normal(16, 10)
        z = 10 * x if chance(0.3) else x
        one: Tensor = small(x)[:, 0] - x @ targets[0] - 0.01 * normal(16)
        two: Tensor = large(z)[:, 0] - z @ targets[1] - 0.1 * normal(16)
        return one.square().mean() + 1000 * two.square().mean()

    def test() -> Tensor:
        return (torch.cat([small.weight, large.weight]) - targets).square().sum()

    return Task(nn.ModuleDict({"small": small, "large": large}), loss, test)


def unnormalized() -> Task:
    """Five layers with ReLU and no normalization; the weights of layers 1 and 3 start 100 times those of 2 and 4."""
    widths, scales = (10, 32, 32, 32, 32, 1), (10.0, 0.1, 10.0, 0.1, 1.0)
    parts: list[nn.Module] = []
    for before, after, scale in zip(widths, widths[1:], scales, strict=False):
        layer = linear(before, after)
        nn.init.normal_(layer.weight, std=scale * math.sqrt(2 / before))
        nn.init.zeros_(layer.bias)
        parts += [layer, nn.ReLU()]
    model = nn.Sequential(*parts[:-1])
    directions = normal(2, 10) / math.sqrt(10)
    test = normal(500, 10)

    def error(x: Tensor) -> Tensor:
        output: Tensor = model(x)[:, 0]
        return (output - torch.tanh(x @ directions[0]) - (x @ directions[1]).abs()).square().mean()

    return Task(model, lambda _: error(normal(64, 10)), lambda: error(test))


def corrupt() -> Task:
    """A regression in which the labels of every fifth batch are multiplied by -30."""
    (w,) = weights(10)
    target = nn.functional.normalize(normal(10), dim=0)

    def loss(_: int) -> Tensor:
        x = normal(16, 10)
        y = x @ target + 0.1 * normal(16)
        return (x @ w - (-30 * y if chance(0.2) else y)).square().mean()

    return Task(nn.ParameterList([w]), loss, lambda: (w - target).square().sum())


def nonfinite() -> Task:
    """A regression in which one input of every 50th batch is nan."""
    (w,) = weights(10)
    target = normal(10)

    def loss(_: int) -> Tensor:
        x = normal(16, 10)
        y = x @ target + 0.1 * normal(16)
        if chance(0.02):
            x[0, 0] = math.nan
        return (x @ w - y).square().mean()

    return Task(nn.ParameterList([w]), loss, lambda: (w - target).square().sum())


def plateau() -> Task:
    """A start on a plateau, 10 away, with a gradient of 1e-4; 2 away from the solution is a cliff of slope 7."""
    target = nn.functional.normalize(normal(5), dim=0)
    w = nn.Parameter(target + 10 * nn.functional.normalize(normal(5), dim=0))

    def loss(_: int) -> Tensor:
        away = (w - target + 0.01 * normal(5)).norm()
        return 1e-3 * torch.log1p(away) + torch.sigmoid(30 * (away - 2))

    return Task(nn.ParameterList([w]), loss, lambda: (w - target).norm())


def vanishing(gain: float = 0.5, depth: int = 30) -> Task:
    """A deep tanh network whose layers start as rotations times the gain; at 0.5 the gradient is about gain^depth."""
    parts: list[nn.Module] = []
    for _ in range(depth):
        layer = linear(16, 16, bias=False)
        nn.init.orthogonal_(layer.weight, gain)
        parts += [layer, nn.Tanh()]
    model = nn.Sequential(*parts, linear(16, 1, bias=False))
    target, test = normal(16) / 4, normal(500, 16)

    def error(x: Tensor) -> Tensor:
        output: Tensor = model(x)[:, 0]
        return (output - x @ target).square().mean()

    return Task(model, lambda _: error(normal(32, 16)), lambda: error(test))
