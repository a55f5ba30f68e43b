"""Every formula against plain Python, written from the papers: 150 steps with spikes, and the memory at each step.

The oracles use none of the library's code; all their arithmetic is on Python's floats.
"""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from gradclip import (
    AGC,
    AdaGC,
    AutoClip,
    Chain,
    ClipByNorm,
    ClipByRMS,
    ClipByValue,
    Clipper,
    ClipReport,
    DropStep,
    EMAClip,
    InvalidField,
    Normalize,
    Policy,
    QuantileClip,
    SoftClip,
    SpikeClip,
    ZClip,
)

STEPS = 150
SIZES = (4, 9, 1, 6)  # elements of four parameters


def gradient_sequence() -> list[list[list[float]]]:
    """Noise of varying size, with spikes and a few zero gradients: [step][parameter][element]."""
    source = random.Random(20)
    steps = []
    for step in range(STEPS):
        size = math.exp(0.5 * math.sin(step / 40)) * (30 if source.random() < 0.05 else 1)
        steps.append([[source.gauss(0, size) for _ in range(count)] for count in SIZES])
        if step % 50 == 17:
            steps[-1][1] = [0.0] * SIZES[1]
    return steps


SEQUENCE = gradient_sequence()
# A step with a spike: a warm-up that is off by one treats it otherwise.
SPIKE = next(n for n, step in enumerate(SEQUENCE) if n > 20 and max(abs(v) for g in step for v in g) > 40)
WEIGHTS = [[random.Random(7 + n).gauss(0, 0.3) for _ in range(count)] for n, count in enumerate(SIZES)]


def norm(values: list[float]) -> float:
    return math.sqrt(math.fsum(value * value for value in values))


def clipped_by(
    policy: Policy, names: list[str] | None = None
) -> tuple[list[list[list[float]]], list[dict[str, Any]], list[bool]]:
    """Clips every step; returns the gradients, the state and `dropped` after each."""
    parameters = [nn.Parameter(torch.tensor(weights, dtype=torch.float64)) for weights in WEIGHTS]
    clipper = Clipper(zip(["a.w", "a.b", "b.w", "b.b"], parameters, strict=True), policy)
    found, states, dropped = [], [], []
    for step in SEQUENCE:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        dropped.append(clipper.clip().dropped)
        clipper.check()
        found.append([p.grad.tolist() for p in parameters])
        state = clipper.state_dict()
        states.append(state[""]["memory"] or state[""]["elements"] if "" in state else state)
    return found, states, dropped


def reports_of(policy: Policy) -> list[ClipReport]:
    """Clips every step, and returns the reports."""
    parameters = [nn.Parameter(torch.tensor(weights, dtype=torch.float64)) for weights in WEIGHTS]
    clipper = Clipper(zip("abcd", parameters, strict=True), policy)
    reports = []
    for step in SEQUENCE:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        reports.append(clipper.clip())
        assert reports[-1].fraction.isfinite()  # elements are counted when this is read, from these gradients
    return reports


def compare(found: list[list[list[float]]], expected: list[list[list[float]]]) -> None:
    """Compares all elements as one array, which is much faster than many lists."""
    assert [[len(gradient) for gradient in step] for step in found] == [[len(g) for g in step] for step in expected]
    np.testing.assert_allclose(flat(found), flat(expected), rtol=1e-6, atol=1e-300)


def flat(steps: list[list[list[float]]]) -> NDArray[np.float64]:
    return np.array([value for step in steps for gradient in step for value in gradient])


def scaled(step: list[list[float]], factors: list[float]) -> list[list[float]]:
    return [[value * factor for value in gradient] for gradient, factor in zip(step, factors, strict=True)]


def factor(limit: float, size: float) -> float:
    return 1.0 if size <= limit else limit / size


# -- one norm for the whole model


def whole(step: list[list[float]]) -> float:
    return norm([value for gradient in step for value in gradient])


def by_model(limit: Callable[[float], float]) -> list[list[list[float]]]:
    """Scales each step to the limit that a function returns for its global norm."""
    return [scaled(step, [factor(limit(whole(step)), whole(step))] * len(SIZES)) for step in SEQUENCE]


def test_norm() -> None:
    compare(clipped_by(ClipByNorm(max=2.0))[0], by_model(lambda size: 2.0))


def percentile_of(values: list[float], percentile: float) -> float:
    ranked = sorted(values)
    index = (len(ranked) - 1) * percentile / 100
    low = math.floor(index)
    high = min(low + 1, len(ranked) - 1)
    return ranked[low] + (ranked[high] - ranked[low]) * (index - low)


WINDOWS = pytest.mark.parametrize(
    ("percentile", "window"), [(10.0, 1000), (50.0, 20), (90.0, 0), (37.5, 7), (50.0, 1), (0.0, 5), (100.0, 5)]
)


@WINDOWS
def test_autoclip(percentile: float, window: int) -> None:
    seen: list[float] = []

    def limit(size: float) -> float:
        seen.append(size)
        return percentile_of(seen[-window:], percentile)

    found, states, _ = clipped_by(AutoClip(percentile=percentile, window=window))
    compare(found, by_model(limit))
    kept = [value for value in states[-1]["norms"].flatten().tolist() if math.isfinite(value)]
    assert sorted(kept) == pytest.approx(sorted(seen[-window:]), rel=1e-6)


@WINDOWS
def test_autoclip_by_parameter(percentile: float, window: int) -> None:
    """Each parameter has its own history, which a zero gradient does not enter."""
    seen: list[list[float]] = [[] for _ in SIZES]
    expected = []
    for step in SEQUENCE:
        factors = []
        for gradient, norms in zip(step, seen, strict=True):
            norms += [norm(gradient)] if any(gradient) else []
            factors.append(factor(percentile_of(norms[-window:], percentile), norm(gradient)))
        expected.append(scaled(step, factors))
    compare(clipped_by(AutoClip(percentile=percentile, window=window, scope="parameter"))[0], expected)


MODES, CAPS = ("reciprocal", "mean", "max"), (None, 1.0, 8.0)
WARMUPS = ((25, 1e-6), (SPIKE, 1e-6), (SPIKE + 1, 1e-6), (25, 0.7))  # each with an eps


@pytest.mark.parametrize(
    ("mode", "cap", "warmup", "eps"),  # every two values of different arguments occur together
    [(MODES[i], CAPS[(i + j) % 3], *WARMUPS[j]) for i in range(3) for j in range(4)],
)
def test_zclip(mode: str, cap: float | None, warmup: int, eps: float) -> None:
    alpha, threshold = 0.97, 2.5
    gathered: list[float] = []
    mean = variance = 0.0
    memory: list[tuple[float, float]] = []

    def limit(size: float) -> float:
        nonlocal mean, variance
        answer, value = math.inf, size
        if len(gathered) < warmup:
            gathered.append(size)
            mean = math.fsum(gathered) / len(gathered)
            variance = math.fsum((each - mean) ** 2 for each in gathered) / len(gathered)
        else:
            deviation = math.sqrt(variance)
            z = (size - mean) / (deviation + eps)
            if z > threshold:
                answer = {
                    "reciprocal": mean + threshold * deviation / (z / threshold),
                    "mean": mean,
                    "max": mean + threshold * deviation,
                }[mode]
                value = answer
            mean = alpha * mean + (1 - alpha) * value
            variance = alpha * variance + (1 - alpha) * (value - mean) ** 2
        memory.append((mean, variance))
        return answer if cap is None else min(answer, cap)

    found, states, _ = clipped_by(ZClip(mode=mode, max=cap, warmup=warmup, eps=eps))
    compare(found, by_model(limit))
    means, variances = zip(*memory, strict=True)
    np.testing.assert_allclose([state["mean"].item() for state in states], means, rtol=1e-6)
    np.testing.assert_allclose([state["variance"].item() for state in states], variances, rtol=1e-6, atol=1e-12)


def test_zclip_treats_a_score_at_the_threshold_as_no_spike() -> None:
    """Norms of 1 and 3 have mean 2 and deviation 1: the score of 4.5 is 2.5, and only a higher one is a spike."""
    parameter = nn.Parameter(torch.zeros((), dtype=torch.float64))
    clipper = Clipper([("p", parameter)], ZClip(mode="mean", max=None, warmup=2, eps=0.0))
    for size, left in ((1.0, 1.0), (3.0, 3.0), (4.5, 4.5)):
        parameter.grad = torch.tensor(size, dtype=torch.float64)
        clipper.clip()
        assert parameter.grad.item() == left


@pytest.mark.parametrize(("target", "lr", "bounds"), [(0.5, 0.2, (0.0, math.inf)), (0.9, 0.05, (0.5, 3.0))])
def test_quantile(target: float, lr: float, bounds: tuple[float, float]) -> None:
    now, memory = 1.0, []

    def limit(size: float) -> float:
        nonlocal now
        answer = now
        now *= math.exp(-lr * ((1.0 if size <= now else 0.0) - target))
        now = min(max(now, bounds[0]), bounds[1])
        memory.append(now)
        return answer

    found, states, _ = clipped_by(QuantileClip(target=target, lr=lr, lower=bounds[0], upper=bounds[1]))
    compare(found, by_model(limit))
    assert [state["limits"].item() for state in states] == pytest.approx(memory, rel=1e-6)


def first_report(policy: Policy, size: float) -> ClipReport:
    parameter = nn.Parameter(torch.zeros((), dtype=torch.float64))
    parameter.grad = torch.tensor(size, dtype=torch.float64)
    clipper = Clipper([("p", parameter)], policy)
    report = clipper.clip()
    return replace(report, limits=clipper.state_dict()[""]["memory"].get("limits", report.limits))


def test_quantile_counts_a_norm_at_the_limit_as_within() -> None:
    moved = first_report(QuantileClip(initial=2.0, target=0.5, lr=0.2), 2.0).limits
    assert moved.item() == pytest.approx(2 * math.exp(-0.1))


def test_autoclip_has_no_limit_before_its_first_norm() -> None:
    assert first_report(AutoClip(), 0.0).limits.item() == math.inf
    assert first_report(AutoClip(), 2.0).limits.item() == 2.0


def test_adagc_has_no_limit_above_a_norm_within_its_warm_up() -> None:
    assert first_report(AdaGC(warmup_max=1.0), 0.25).limits.item() == 0.25


def test_normalize_and_soft() -> None:
    expected = [scaled(step, [2.0 / (whole(step) + 1e-6)] * 4) for step in SEQUENCE]
    compare(clipped_by(Normalize(max=2.0))[0], expected)
    expected = [scaled(step, [2.0 / (2.0 + whole(step))] * 4) for step in SEQUENCE]
    compare(clipped_by(SoftClip(max=2.0))[0], expected)


def test_drop() -> None:
    found, _, dropped = clipped_by(DropStep(max=10.0))
    compare(found, SEQUENCE)
    assert dropped == [whole(step) > 10.0 for step in SEQUENCE]
    assert any(dropped)
    assert not all(dropped)


# -- one norm per parameter


def test_rms() -> None:
    expected = [scaled(s, [factor(0.5 * math.sqrt(len(g)), norm(g)) for g in s]) for s in SEQUENCE]
    compare(clipped_by(ClipByRMS(max=0.5))[0], expected)


@pytest.mark.parametrize("scope", ["model", "layer", "parameter", "unit"])
def test_rms_counts_only_elements_of_existing_gradients(scope: str) -> None:
    """One parameter never has a gradient, another only at the first step."""
    shapes = {"a.w": (3, 4), "a.b": (5,), "b.b": (7,)}
    named = {name: nn.Parameter(torch.zeros(shape)) for name, shape in shapes.items()}
    clipper = Clipper(named.items(), ClipByRMS(max=0.5, scope=scope))
    for weights, biases in ((12, 5), (12, 0)):
        named["a.w"].grad, named["a.b"].grad = torch.ones(3, 4), torch.ones(5) if biases else None
        sizes = {
            "model": [weights + biases],
            "layer": [weights + biases, 0],
            "parameter": [weights, biases, 0],
            "unit": [weights / 3] * 3 + [biases, 0],
        }[scope]
        limits = clipper.clip().limits.tolist()
        np.testing.assert_allclose(limits, [0.5 * math.sqrt(size) for size in sizes], rtol=1e-12)


def test_layers_are_modules_not_their_parents() -> None:
    named = {name: nn.Parameter(torch.zeros(1)) for name in ("block.0.w", "block.0.b", "block.1.w", "top")}
    for parameter, size in zip(named.values(), (3.0, 4.0, 12.0, 7.0), strict=True):
        parameter.grad = torch.tensor([size])
    report = Clipper(named.items(), ClipByNorm(max=1e9, scope="layer")).clip()
    assert report.norms.tolist() == pytest.approx([5.0, 12.0, 7.0])


@pytest.mark.parametrize("warmup", [1, 10, SPIKE, SPIKE + 1])
def test_ema(warmup: int) -> None:
    ratio, beta = 1.3, 0.9
    averages, counts = [0.0] * 4, [0] * 4
    expected, memory = [], []
    for step in SEQUENCE:
        factors = []
        for index, gradient in enumerate(step):
            size = norm(gradient)
            limit = ratio * averages[index] if counts[index] >= warmup else math.inf
            factors.append(factor(limit, size))
            if size > 0:
                after = min(size, limit)
                averages[index] = after if counts[index] == 0 else beta * averages[index] + (1 - beta) * after
                counts[index] += 1
        expected.append(scaled(step, factors))
        memory.append(list(averages))
    found, states, _ = clipped_by(EMAClip(ratio=ratio, beta=beta, warmup=warmup))
    compare(found, expected)
    np.testing.assert_allclose([state["average"].tolist() for state in states], memory, rtol=1e-6)


@pytest.mark.parametrize("warmup", [0, 1, 40, SPIKE, SPIKE + 1])
def test_adagc(warmup: int) -> None:
    ratio, beta, most = 1.05, 0.98, 1.0
    averages, counts = [math.inf] * 4, [0] * 4
    expected, memory = [], []
    for step in SEQUENCE:
        together, factors = whole(step), []
        for index, gradient in enumerate(step):
            size = norm(gradient)
            warm = counts[index] < warmup
            scale = min(1.0, most / together) if warm else factor(ratio * averages[index], size)
            factors.append(scale)
            if size > 0:
                after = size * scale
                if warm:
                    averages[index] = min(averages[index], after)
                else:
                    first = math.isinf(averages[index])
                    averages[index] = after if first else beta * averages[index] + (1 - beta) * after
                counts[index] += 1
        expected.append(scaled(step, factors))
        memory.append(list(averages))
    found, states, _ = clipped_by(AdaGC(warmup=warmup))
    compare(found, expected)
    np.testing.assert_allclose([state["average"].tolist() for state in states], memory, rtol=1e-6)


# -- units and elements


def test_agc() -> None:
    """A matrix has a norm for each row, a kernel for each output over all its other dimensions, a vector one."""
    source = random.Random(3)
    shapes = [(3, 4), (2, 3, 2, 2), (5,), (), (2, 6)]
    parameters = []
    for shape in shapes:
        count = math.prod(shape)
        weights = torch.tensor([source.gauss(0, 0.02) for _ in range(count)], dtype=torch.float64).view(shape)
        parameter = nn.Parameter(weights)
        parameter.grad = torch.tensor([source.gauss(0, 1) for _ in range(count)], dtype=torch.float64).view(shape)
        parameters.append(parameter)
    with torch.no_grad():
        parameters[0][1] = 0  # weights of norm 0 count as eps, or they would never learn
    before = [p.grad.clone() for p in parameters]
    names = ["one.weight", "two.weight", "two.bias", "gain", "head.weight"]
    Clipper(zip(names, parameters, strict=True), AGC(ratio=0.05)).clip()
    for parameter, old in zip(parameters, before, strict=True):
        rows = range(parameter.shape[0]) if parameter.dim() > 1 else [...]
        for row in rows:
            g, w = old[row].flatten().tolist(), parameter.detach()[row].flatten().tolist()
            limit = 0.05 * max(norm(w), 1e-3)
            scale = factor(limit, norm(g))
            assert parameter.grad[row].flatten().tolist() == pytest.approx([scale * v for v in g], rel=1e-6)


def test_value() -> None:
    expected = [[[max(-0.7, min(0.7, v)) for v in g] for g in step] for step in SEQUENCE]
    compare(clipped_by(ClipByValue(max=0.7))[0], expected)


@pytest.mark.parametrize("warmup", [0, 30, SPIKE, SPIKE + 1])
def test_spike(warmup: int) -> None:
    theta, beta = 20.0, 0.99
    squares = [[0.0] * count for count in SIZES]
    expected, memory = [], []
    for number, step in enumerate(SEQUENCE):
        now = []
        for index, gradient in enumerate(step):
            left = []
            for element, value in enumerate(gradient):
                v = squares[index][element]
                if number >= warmup and v > 0 and value * value > theta * v:
                    value = math.copysign(math.sqrt(theta * v), value)
                squares[index][element] = beta * v + (1 - beta) * value * value
                left.append(value)
            now.append(left)
        expected.append(now)
        memory.append([list(each) for each in squares])
    found, states, _ = clipped_by(SpikeClip(theta=theta, beta=beta, warmup=warmup))
    compare(found, expected)
    assert found != SEQUENCE
    compare([[each["root"].square().tolist() for each in state.values()] for state in states], memory)


@pytest.mark.parametrize(("cap", "warmup"), [(0.8, 0), (5.0, 30), (1e9, 0)])
def test_spike_caps_every_element_and_remembers_it_without_the_cap(cap: float, warmup: int) -> None:
    """The cap holds during the warm-up and for an element that was always 0, and exceeding it is counted."""
    theta, beta = 20.0, 0.99
    squares = [[0.0] * count for count in SIZES]
    expected: list[list[list[float]]] = []
    memory, shares = [], []
    for number, step in enumerate(SEQUENCE):
        expected.append([])
        exceeded = 0
        for gradient, old in zip(step, squares, strict=True):
            bounds = [math.sqrt(theta * v) if number >= warmup and v > 0 else math.inf for v in old]
            limits = [min(bound, cap) for bound in bounds]
            exceeded += sum(abs(value) > limit for value, limit in zip(gradient, limits, strict=True))
            expected[-1].append([max(-limit, min(limit, g)) for g, limit in zip(gradient, limits, strict=True)])
            free = [max(-bound, min(bound, g)) for g, bound in zip(gradient, bounds, strict=True)]
            old[:] = [beta * v + (1 - beta) * g * g for v, g in zip(old, free, strict=True)]
        memory.append([list(each) for each in squares])
        shares.append(exceeded / sum(SIZES))
    policy = SpikeClip(theta=theta, beta=beta, warmup=warmup, max=cap)
    found, states, _ = clipped_by(policy)
    compare(found, expected)
    compare([[each["root"].square().tolist() for each in state.values()] for state in states], memory)
    assert [report.fraction.item() for report in reports_of(policy)] == pytest.approx(shares)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_spike_limits_what_it_reports_as_its_cap(dtype: torch.dtype) -> None:
    parameter = nn.Parameter(torch.zeros(3, dtype=dtype))
    clipper = Clipper([("p", parameter)], SpikeClip(max=0.1))
    for _ in range(2):
        parameter.grad = torch.tensor([-4.0, 0.05, math.inf], dtype=dtype).clamp(max=9.0)
        report = clipper.clip()
        clipper.check()
        assert parameter.grad.tolist() == torch.tensor([-0.1, 0.05, 0.1], dtype=dtype).tolist()
        assert report.limits.tolist() == pytest.approx([0.1])
        assert report.fraction.item() == pytest.approx(2 / 3)


# -- scopes, chains, schedules


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, math.inf])
def test_layers_and_groups(norm_type: float) -> None:
    def p_norm(values: list[float]) -> float:
        sizes = [abs(value) for value in values]
        return max(sizes) if math.isinf(norm_type) else math.fsum(s**norm_type for s in sizes) ** (1 / norm_type)

    expected = []
    for step in SEQUENCE:
        first, second = (factor(1.5, p_norm([v for g in part for v in g])) for part in (step[:2], step[2:]))
        expected.append(scaled(step, [first, first, second, second]))
    compare(clipped_by(ClipByNorm(max=1.5, scope="layer", norm_type=norm_type))[0], expected)

    parameters = [nn.Parameter(torch.tensor(weights, dtype=torch.float64)) for weights in WEIGHTS]
    optimizer = torch.optim.SGD([{"params": parameters[:2]}, {"params": parameters[2:]}], lr=0.1)
    policy = ClipByNorm(max=1.5, scope="group", norm_type=norm_type)
    clipper = Clipper(zip("abcd", parameters, strict=True), policy, optimizer=optimizer)
    found = []
    for step in SEQUENCE:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        clipper.clip()
        found.append([p.grad.tolist() for p in parameters])
    compare(found, expected)


def test_the_scope_group_needs_an_optimizer_with_every_parameter() -> None:
    weight, other = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match="needs the optimizer"):
        Clipper([("w", weight)], ClipByNorm(max=1.0, scope="group"))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    with pytest.raises(ValueError, match="other is in no parameter group"):
        Clipper([("w", weight), ("other", other)], ClipByNorm(max=1.0, scope="group"), optimizer=optimizer)


def test_a_chain_applies_its_links_in_order() -> None:
    expected = []
    for step in SEQUENCE:
        clamped = [[max(-0.7, min(0.7, v)) for v in g] for g in step[:2]] + step[2:]
        expected.append(scaled(clamped, [factor(2.0, whole(clamped))] * 4))
    links: dict[str, Policy] = {"elements": ClipByValue(max=0.7, include=["a.*"]), "whole": ClipByNorm(max=2.0)}
    compare(clipped_by(Chain(links=links))[0], expected)


def test_the_links_of_a_chain_have_separate_thresholds() -> None:
    expected = []
    for step in SEQUENCE:
        first, second = (norm([v for g in part for v in g]) for part in (step[:2], step[2:]))
        expected.append(scaled(step, [factor(0.5, first)] * 2 + [factor(3.0, second)] * 2))
    links: dict[str, Policy] = {
        "a": ClipByNorm(max=0.5, include=["a.*"]),
        "rest": ClipByNorm(max=3.0, exclude=["a.*"]),
    }
    compare(clipped_by(Chain(links=links))[0], expected)


def test_a_chain_keeps_the_memories_of_its_links() -> None:
    links: dict[str, Policy] = {"z": ZClip(max=None), "ema": EMAClip(warmup=5)}
    _, states, _ = clipped_by(Chain(links=links))
    assert states[-1].keys() == {"z", "ema"}
    assert states[-1]["z"]["memory"].keys() == {"count", "mean", "variance"}


def test_a_chain_drops_a_step_if_one_of_its_links_does() -> None:
    links: dict[str, Policy] = {"drop": DropStep(max=10.0), "norm": ClipByNorm(max=2.0)}
    assert clipped_by(Chain(links=links))[2] == [whole(step) > 10.0 for step in SEQUENCE]


def test_a_chain_refuses_chains_and_links_with_nonfinite() -> None:
    with pytest.raises(InvalidField, match="at least one policy"):
        Chain(links={})
    with pytest.raises(
        InvalidField, match=r"^links\.a\.nonfinite=drop: must be error, since clip.nonfinite holds for all links$"
    ):
        Chain(links={"a": ClipByNorm(max=1.0, nonfinite="drop")})
    with pytest.raises(InvalidField, match=r"^links\.a=chain: must be a policy other than chain$"):
        Chain(links={"a": Chain(links={"b": ClipByNorm(max=1.0)})})


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine"])
def test_a_threshold_may_follow_a_schedule(shape: str) -> None:
    def threshold(step: int) -> float:
        done = min(step / 99, 1.0)
        return {
            "constant": 3.0,
            "linear": 3.0 + (0.5 - 3.0) * done,
            "cosine": 0.5 + (3.0 - 0.5) * (1 + math.cos(math.pi * done)) / 2,
        }[shape]

    end = {} if shape == "constant" else {"final": 0.5, "over": 100}
    policy = ClipByNorm(max=3.0, schedule=shape, **end)
    expected = [scaled(s, [factor(threshold(n), whole(s))] * 4) for n, s in enumerate(SEQUENCE)]
    compare(clipped_by(policy)[0], expected)


def test_a_schedule_continues_from_the_saved_step() -> None:
    policy = ClipByNorm(max=3.0, schedule="linear", final=0.5, over=10)
    weight = nn.Parameter(torch.zeros(1))
    half = Clipper([("w", weight)], policy)
    for _ in range(5):
        weight.grad = torch.ones(1)
        half.clip()
    rest = Clipper([("w", weight)], policy)
    rest.load_state_dict(half.state_dict())
    weight.grad = torch.full((1,), 100.0)
    assert rest.clip().limits.item() == pytest.approx(3.0 - 2.5 * 5 / 9)


@pytest.mark.parametrize(
    "policy", [EMAClip(warmup=2), AutoClip(), AdaGC(warmup=2), QuantileClip(initial=1e9), AGC(ratio=1e9)]
)
def test_the_cap_is_applied_last_and_changes_no_memory(policy: Policy) -> None:
    free, memory, _ = clipped_by(policy)
    capped, other, _ = clipped_by(replace(policy, max=1e-3))
    for gradients in capped:
        assert all(norm(gradient) <= 1e-3 * (1 + 1e-9) for gradient in gradients)
    assert any(norm(g) > 1e-3 for gradients in free for g in gradients)
    for one, two in zip(memory, other, strict=True):  # and leaves the memory as it would have been
        for name in one:
            torch.testing.assert_close(one[name], two[name], equal_nan=True)
