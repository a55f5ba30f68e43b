"""One Clipper for a model that changes between steps, against an oracle in NumPy and float64.

hypothesis adds, replaces, casts, freezes, grows, shrinks, ties, moves and removes parameters, gives and takes
gradients, and chooses another policy; after each of these changes the model is clipped. With 2,000 examples
instead of 100:

    EXAMPLES=2000 python -m pytest tests/gradclip/test_changing_model.py -n 0
"""

import copy
import math
import os
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.typing import NDArray
from torch import Tensor, nn

from gradclip import AGC, ClipByNorm, ClipByRMS, ClipByValue, Clipper, ClipReport, Policy

Array = NDArray[np.float64]
Member = tuple[str, int | None]  # a parameter's name, and the row that is measured, or None for all of it

DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float64])
SHAPES = st.lists(st.integers(1, 5), max_size=3).map(tuple) | st.sampled_from(
    [(0,), (0, 3), (300,), (2, 70), (130, 130)]
)
SIZES = st.sampled_from([0.0, 1e-42, 1e-30, 1e-20, 1e-8, 1e-3, 1.0, 10.0, 1e3, 1e8, 1e19, 1e30, 1e36])
SEEDS = st.integers(0, 2**32)
MAXIMA = st.sampled_from([1e-25, 1e-6, 1e-3, 0.1, 0.7, 1.0, 30.0, 1e8, math.inf])
SCOPES = st.sampled_from(["model", "layer", "parameter", "unit"])
POLICIES = st.one_of(
    st.builds(ClipByNorm, max=MAXIMA, scope=SCOPES, norm_type=st.sampled_from([1.0, 2.0, math.inf])),
    st.builds(ClipByRMS, max=MAXIMA, scope=SCOPES),
    st.builds(ClipByValue, max=MAXIMA),
    st.builds(AGC, ratio=st.sampled_from([1e-3, 0.5]), scope=st.sampled_from(["parameter", "unit"])),
)


# -- the oracle


def exact(tensor: Tensor) -> Array:
    """Copies a tensor to a float64 array."""
    return tensor.detach().to(torch.float64, copy=True).numpy()


def norm(arrays: list[Array], p: float = 2.0) -> float:
    """The p-norm of all elements together, scaled by the largest so that no power overflows or underflows."""
    values = np.abs(np.concatenate([array.ravel() for array in arrays] or [np.zeros(0)]))
    largest = values.max(initial=0.0)
    if largest == 0.0 or math.isinf(p):
        return float(largest)
    return float(largest * np.power(values / largest, p).sum() ** (1 / p))


def blocks_of(scope: str, weights: dict[str, Array]) -> list[list[Member]]:
    """The blocks of the scope, in the order of the parameters."""
    found: dict[object, list[Member]] = {}
    for name, weight in weights.items():
        if scope == "unit" and weight.ndim > 1:
            found |= {(name, row): [(name, row)] for row in range(len(weight))}
        else:
            label = {"model": "", "layer": name.rpartition(".")[0]}.get(scope, name)
            found.setdefault(label, []).append((name, None))
    return list(found.values())


def part(arrays: dict[str, Array], member: Member) -> Array:
    name, row = member
    return arrays[name] if row is None else arrays[name][row]


@dataclass
class Expected:
    """The expected results in float64. unsure: parameters whose norm is so close to the limit that both are right."""

    gradients: dict[str, Array]
    norms: list[float]
    limits: list[float]
    fraction: float
    unsure: set[str]


def expected_of(policy: Policy, weights: dict[str, Array], gradients: dict[str, Array], learning: set[str]) -> Expected:
    """Clips blocks: each is multiplied by min(1, limit / norm)."""
    after = {name: gradient.copy() for name, gradient in gradients.items()}
    norms, limits, unsure = [], [], set()
    for block in blocks_of(policy.scope, weights):
        members = [member for member in block if member[0] in gradients]
        norms.append(norm([part(gradients, member) for member in members], policy.norm_type))
        if isinstance(policy, AGC):
            compared = [part(weights, member) for member in block if member[0] in gradients.keys() | learning]
            limits.append(policy.ratio * max(norm(compared), policy.eps))
        elif isinstance(policy, ClipByRMS):
            count = sum(part(gradients, member).size for member in members)
            limits.append(policy.max * math.sqrt(count) if count else math.nan)
        else:
            assert isinstance(policy, ClipByNorm)
            limits.append(policy.max)
        if abs(norms[-1] - limits[-1]) <= 1e-5 * limits[-1] < math.inf:
            unsure |= {name for name, _ in members}
        if norms[-1] > limits[-1]:
            for member in members:
                part(after, member)[...] *= limits[-1] / norms[-1]
    exceeded = sum(norm > limit for norm, limit in zip(norms, limits, strict=True))
    return Expected(after, norms, limits, exceeded / max(len(norms), 1), unsure)


def expected_of_value(
    limit: float, weights: dict[str, Array], gradients: dict[str, Array], types: dict[str, torch.dtype]
) -> Expected:
    """Clips elements: each is clamped to [-limit, limit], with the limit rounded to its type."""
    bounds = {name: float(torch.tensor(limit, dtype=types[name])) for name in gradients}
    exceeded = sum(int((np.abs(gradient) >= bounds[name]).sum()) for name, gradient in gradients.items())
    count = sum(gradient.size for gradient in gradients.values())
    return Expected(
        {name: gradient.clip(-bounds[name], bounds[name]) for name, gradient in gradients.items()},
        [norm([gradients[name]], math.inf) if name in gradients else 0.0 for name in weights],
        [limit if name in gradients else math.inf for name in weights],
        exceeded / max(count, 1),
        unsure=set(),
    )


def smallest(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).tiny * torch.finfo(dtype).eps


# -- the state machine


class Layer(nn.Module):
    """A module with a weight and a bias of any shapes and types."""

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)


def drawn(shape: tuple[int, ...], size: float, seed: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (size * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


class ChangingModel(RuleBasedStateMachine):
    @initialize(policy=POLICIES, dtype=DTYPES, seed=SEEDS)
    def start(self, policy: Policy, dtype: torch.dtype, seed: int) -> None:
        self.model = nn.ModuleDict({"first": Layer(drawn((3, 4), 1.0, seed, dtype), drawn((3,), 1.0, seed, dtype))})
        self.clipper = Clipper(self.model, policy)
        self.added = 0
        self.set_gradients(1.0, seed)

    def layer(self, number: int) -> nn.Module:
        return list(self.model.values())[number % len(self.model)]

    def parameter(self, number: int) -> nn.Parameter:
        parameters = list(self.model.parameters())
        return parameters[number % len(parameters)]

    @precondition(lambda self: len(self.model) < 4)
    @rule(shape=SHAPES, size=SIZES, seed=SEEDS, dtype=DTYPES)
    def add(self, shape: tuple[int, ...], size: float, seed: int, dtype: torch.dtype) -> None:
        self.added += 1
        self.model[f"layer{self.added}"] = layer = Layer(drawn(shape, size, seed, dtype), drawn((2,), 1.0, seed, dtype))
        layer.weight.grad = drawn(shape, 10.0, seed + 1, dtype)

    @precondition(lambda self: len(self.model) > 1)
    @rule(number=st.integers(0, 3))
    def remove(self, number: int) -> None:
        del self.model[list(self.model)[number % len(self.model)]]

    @rule(number=st.integers(0, 3), name=st.sampled_from(["weight", "bias"]), shape=SHAPES, seed=SEEDS, dtype=DTYPES)
    def replace(self, number: int, name: str, shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> None:
        parameter = nn.Parameter(drawn(shape, 1.0, seed, dtype))
        parameter.grad = drawn(shape, 10.0, seed + 1, dtype)
        setattr(self.layer(number), name, parameter)

    @rule(number=st.integers(0, 3), dtype=DTYPES)
    def cast(self, number: int, dtype: torch.dtype) -> None:
        self.layer(number).to(dtype)

    @rule(number=st.integers(0, 7), learns=st.booleans())
    def freeze(self, number: int, learns: bool) -> None:
        self.parameter(number).requires_grad_(learns)

    @rule(number=st.integers(0, 7), shape=SHAPES, seed=SEEDS)
    def grow_or_shrink(self, number: int, shape: tuple[int, ...], seed: int) -> None:
        parameter = self.parameter(number)
        parameter.grad = None
        parameter.data = drawn(shape, 1.0, seed, parameter.dtype)
        parameter.grad = drawn(shape, 1.0, seed + 1, parameter.dtype)

    @rule(number=st.integers(0, 3), other=st.integers(0, 3))
    def tie(self, number: int, other: int) -> None:
        self.layer(number).weight = self.layer(other).weight

    @rule(number=st.integers(0, 3))
    def move(self, number: int) -> None:
        layer = self.layer(number)
        layer.to("meta")
        layer.to_empty(device="cpu")
        for parameter in layer.parameters():
            parameter.data.fill_(0.5)
            parameter.grad = torch.full_like(parameter, 3.0, device="cpu")

    @rule()
    def copy(self) -> None:
        gradients = [parameter.grad for parameter in self.model.parameters()]
        self.model, self.clipper = copy.deepcopy((self.model, self.clipper))
        for parameter, gradient in zip(self.model.parameters(), gradients, strict=True):
            parameter.grad = gradient

    @rule(number=st.integers(0, 7))
    def drop_gradient(self, number: int) -> None:
        self.parameter(number).grad = None

    @rule()
    def drop_gradients(self) -> None:
        self.model.zero_grad()

    @rule(number=st.integers(0, 7), size=SIZES, seed=SEEDS)
    def set_gradient(self, number: int, size: float, seed: int) -> None:
        parameter = self.parameter(number)
        parameter.grad = drawn(parameter.shape, size, seed, parameter.dtype)

    @rule(size=SIZES, seed=SEEDS)
    def set_gradients(self, size: float, seed: int) -> None:
        for number, parameter in enumerate(self.model.parameters()):
            if parameter.requires_grad:
                parameter.grad = drawn(parameter.shape, size, seed + number, parameter.dtype)

    @rule(policy=POLICIES)
    def choose(self, policy: Policy) -> None:
        self.clipper.policy = policy

    @invariant()
    def clip(self) -> None:
        policy = self.clipper.policy
        named = dict(self.model.named_parameters())
        types = {name: parameter.dtype for name, parameter in named.items()}
        weights = {name: exact(parameter) for name, parameter in named.items()}
        before = {name: exact(parameter.grad) for name, parameter in named.items() if parameter.grad is not None}
        with warnings.catch_warnings():
            if not before:
                warnings.filterwarnings("ignore", "clip.. found no gradient")
            report = self.clipper.clip()
        self.clipper.check()
        if isinstance(policy, ClipByValue):
            expected = expected_of_value(policy.max, weights, before, types)
        else:
            learning = {name for name, parameter in named.items() if parameter.requires_grad}
            expected = expected_of(policy, weights, before, learning)
        self.compare_gradients(expected, before)
        self.compare_report(report, expected, before)

    def compare_gradients(self, expected: Expected, before: dict[str, Array]) -> None:
        lowest = min(
            (limit / size for limit, size in zip(expected.limits, expected.norms, strict=True) if size), default=1.0
        )
        products = 1 if lowest > 1.2e-38 else 2  # a scale below float32's range is its square root twice
        for name, parameter in self.model.named_parameters():
            if name not in before:
                assert parameter.grad is None
                continue
            found, wanted = exact(parameter.grad), expected.gradients[name]
            if name not in expected.unsure and np.array_equal(wanted, before[name]):
                assert np.array_equal(found, wanted), name
            rounding = 2e-6 + products * torch.finfo(parameter.dtype).eps / 2  # of the norm, and of each product
            np.testing.assert_allclose(found, wanted, rtol=rounding, atol=2 * smallest(parameter.dtype), err_msg=name)

    def compare_report(self, report: ClipReport, expected: Expected, before: dict[str, Array]) -> None:
        named = dict(self.model.named_parameters())
        after = {name: exact(named[name].grad) for name in before}
        floor = max(smallest(parameter.dtype) * math.sqrt(parameter.numel()) for parameter in named.values())
        np.testing.assert_allclose(report.before.item(), norm(list(before.values())), rtol=1e-6)
        np.testing.assert_allclose(report.after.item(), norm(list(after.values())), rtol=1e-6, atol=2 * floor)
        assert list(report.by_parameter()) == list(named)
        for name, (was, now) in report.by_parameter().items():
            np.testing.assert_allclose(was, norm([before[name]]) if name in before else 0.0, rtol=1e-6)
            np.testing.assert_allclose(now, norm([after[name]]) if name in after else 0.0, rtol=1e-6, atol=2 * floor)
        np.testing.assert_allclose(report.norms.numpy(), expected.norms, rtol=1e-6)
        known = ~np.isnan(expected.limits)  # of a block without gradients the limit has no meaning
        np.testing.assert_allclose(report.limits.numpy()[known], np.array(expected.limits)[known], rtol=1e-6)
        if not expected.unsure:
            np.testing.assert_allclose(report.fraction.item(), expected.fraction, rtol=1e-6)


ChangingModel.TestCase.settings = settings(
    max_examples=int(os.environ.get("EXAMPLES", "100")),
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestChangingModel = ChangingModel.TestCase
