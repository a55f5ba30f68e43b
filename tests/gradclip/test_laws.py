"""What must hold for every file in conf/clip, at every scope it takes, in every precision.

Inputs are drawn by hypothesis. Every figure is measured again in float64 by NumPy, and the blocks are
cut again here: nothing of the product checks itself.
"""

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from gradclip import Chain, ClipByNorm, Clipper, ClipReport, NonFiniteGradientError, Policy
from tests.support import TRIED, exact, exact_norm, policies, policy_id

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
EVERY = pytest.mark.parametrize("policy", policies(), ids=policy_id)
DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
EXAMPLES = settings(max_examples=8, deadline=None)
Named = list[tuple[str, nn.Parameter]]
Case = list[tuple[tuple[int, ...], str, float]]
Block = list[tuple[int, int | None]]  # places of parameters, with a row where a unit is a row

# Policies without a memory, whose second clipping of the same gradients has to change nothing.
STATELESS = ("none", "norm", "value", "rms", "agc", "drop")


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Shapes, kinds and magnitudes of a model's gradients."""
    shape = st.sampled_from([(), (1,), (7,), (3, 5), (40, 30), (2, 3, 3, 3), (0,), (4, 0), (1500,)])
    kind = st.sampled_from(["dense", "dense", "dense", "none", "zero", "transposed", "equal", "sliced"])
    magnitude = st.sampled_from([-30.0, -3.0, 0.0, 0.0, 1.0, 30.0])
    return draw(st.lists(st.tuples(shape, kind, magnitude), min_size=1, max_size=8))


def made(case: Case, dtype: torch.dtype, seed: int = 0) -> Named:
    """Parameters with weights and gradients, two to a layer."""
    random = torch.Generator().manual_seed(len(case) + 1000 * seed)
    named: Named = []
    for number, (shape, kind, exponent) in enumerate(case):
        exponent = min(exponent, 1.0) if dtype == torch.float16 else exponent  # its largest number is 65504
        values = torch.randn(shape, generator=random, dtype=torch.float64) * 10.0**exponent
        values = values.zero_() if kind == "zero" else torch.ones_like(values) if kind == "equal" else values
        gradient = values.to(dtype)
        if kind == "transposed" and gradient.dim() == 2:
            gradient = gradient.t().contiguous().t()
        if kind == "sliced" and gradient.dim() > 0:
            gradient = torch.stack([gradient, gradient], -1)[..., 0]
        parameter = nn.Parameter(torch.randn(shape, generator=random, dtype=torch.float64).to(dtype))
        if kind != "none":
            parameter.grad = gradient
        named.append((f"layer{number // 2}.p{number}", parameter))
    return named


def clipper(named: Named, policy: Policy) -> Clipper:
    """With an optimizer of two parameter groups, for the scope that needs one. Counted for the suite's table."""
    TRIED[policy_id(policy), str(named[0][1].dtype).removeprefix("torch.")] += 1
    parameters = [parameter for _, parameter in named]
    groups = [{"params": part} for part in (parameters[::2], parameters[1::2]) if part]
    return Clipper(named, policy, optimizer=torch.optim.SGD(groups, lr=0.1))


def gradients(named: Named) -> list[Tensor | None]:
    return [None if p.grad is None else p.grad.clone(memory_format=torch.preserve_format) for _, p in named]


def blocks(policy: Policy, named: Named) -> list[Block]:
    """The blocks of a scope, each a list of places, with a row where the unit is a row."""
    alone = policy.left_alone([name for name, p in named if p.dim() > 1])
    places = [place for place, (name, _) in enumerate(named) if name not in alone]
    if policy.scope == "unit":
        return [
            [(i, row)] for i in places for row in (range(named[i][1].shape[0]) if named[i][1].dim() > 1 else [None])
        ]
    key: Callable[[int], Any] = {
        "model": lambda place: 0,
        "group": lambda place: place % 2,
        "layer": lambda place: named[place][0].split(".")[0],
        "parameter": lambda place: place,
        "element": lambda place: place,
    }[policy.scope]
    found: dict[Any, list[tuple[int, int | None]]] = {}
    for place in places:
        found.setdefault(key(place), []).append((place, None))
    return list(found.values())


def values(block: Block, tensors: list[Tensor | None]) -> NDArray[np.float64]:
    parts = [
        exact(tensor if row is None else tensor[row]) for place, row in block if (tensor := tensors[place]) is not None
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def norm(numbers: NDArray[np.float64], p: float) -> float:
    return exact_norm([torch.from_numpy(numbers)], p)


def rounding(dtype: torch.dtype) -> float:
    """Each element of a product is rounded by half an eps, a factor in float32 besides; equal roundings add up."""
    return 0.51 * torch.finfo(dtype).eps if dtype.itemsize < 4 else 4 * torch.finfo(dtype).eps


def underflow(dtype: torch.dtype, count: int) -> float:
    """What rounding to the type's smallest number may add up to in a norm of so many elements."""
    return torch.finfo(dtype).tiny * torch.finfo(dtype).eps * math.sqrt(max(count, 1))


def size(named: Named) -> int:
    return sum(parameter.numel() for _, parameter in named)


def steps(
    policy: Policy, case: Case, dtype: torch.dtype, count: int = 3
) -> Iterator[tuple[Named, list[Tensor | None], ClipReport]]:
    """A few steps of one Clipper with other gradients each: what they were, and the report. Memories fill."""
    named = made(case, dtype)
    work = clipper(named, policy)
    for step in range(3):
        for (_, parameter), (_, other) in zip(named, made(case, dtype, seed=step), strict=True):
            parameter.grad = other.grad
        before = gradients(named)
        yield named, before, work.clip()
        work.check()


def per_block(policy: Policy, report: ClipReport, named: Named) -> Iterator[tuple[Block, float, float, float]]:
    """Each block with its norm and limit as reported, and its p; a chain has the blocks of all its links."""
    links = list(policy.links.values()) if isinstance(policy, Chain) else [policy]
    found = [(block, link.norm_type) for link in links for block in blocks(link, named)]
    assert len(found) == len(report.norms) == len(report.limits)
    for (block, p), norm, limit in zip(found, report.norms.tolist(), report.limits.tolist(), strict=True):
        yield block, norm, limit, p


def same(one: Tensor | None, other: Tensor | None) -> bool:
    return (one is None and other is None) or (one is not None and other is not None and torch.equal(one, other))


@EVERY
@DTYPE
@EXAMPLES
@given(case=cases())
def test_limit(policy: Policy, dtype: torch.dtype, case: Case) -> None:
    """No block exceeds the limit that was reported for it, whatever its norm was."""
    for named, _, report in steps(policy, case, dtype):
        after = gradients(named)
        for block, _, limit, p in per_block(policy, report, named):
            numbers = values(block, after)
            if policy.kind not in ("measure", "decision"):
                assert norm(numbers, p) <= limit * (1 + rounding(dtype)) + underflow(dtype, len(numbers))


@EVERY
@DTYPE
@EXAMPLES
@given(case=cases())
def test_measured(policy: Policy, dtype: torch.dtype, case: Case) -> None:
    """The norms that a policy is given are those of its blocks, measured before."""
    if policy.kind == "composite":
        return
    for named, before, report in steps(policy, case, dtype):
        for block, found, _, p in per_block(policy, report, named):
            assert found == pytest.approx(norm(values(block, before), p), rel=1e-6)


@EVERY
@DTYPE
@EXAMPLES
@given(case=cases())
def test_within_the_limit_nothing_changes_by_a_bit(policy: Policy, dtype: torch.dtype, case: Case) -> None:
    if policy.kind in ("rescale", "composite") or policy.name == "spike":
        return  # they change what is within a limit, too, or limit every element differently
    for named, before, report in steps(policy, case, dtype):
        after = gradients(named)
        for block, found, limit, _ in per_block(policy, report, named):
            if found <= limit:
                for place, row in block:
                    old, new = before[place], after[place]
                    assert same(old, new) if row is None else same(old[row] if old is not None else None,
                                                                   new[row] if new is not None else None)  # fmt: skip
        if report.fraction.item() == 0:
            assert report.before.item() == report.after.item()


@EVERY
@DTYPE
@EXAMPLES
@given(case=cases())
def test_what_no_policy_touches(policy: Policy, dtype: torch.dtype, case: Case) -> None:
    """Parameters themselves, missing gradients, and those that the policy leaves alone."""
    named = made(case, dtype)
    weights = [parameter.detach().clone() for _, parameter in named]
    before = gradients(named)
    clipper(named, policy).clip()
    alone = policy.left_alone([name for name, p in named if p.dim() > 1])
    for (name, parameter), weight, old, new in zip(named, weights, before, gradients(named), strict=True):
        assert torch.equal(parameter.detach(), weight)
        assert (old is None) == (new is None)
        if name in alone:
            assert same(old, new)


@pytest.mark.parametrize("policy", [p for p in policies() if p.name in STATELESS], ids=policy_id)
@DTYPE
@EXAMPLES
@given(case=cases())
def test_clipping_again_changes_nothing_but_roundings(policy: Policy, dtype: torch.dtype, case: Case) -> None:
    named = made(case, dtype)
    work = clipper(named, policy)
    work.clip()
    once = gradients(named)
    work.clip()
    for old, new in zip(once, gradients(named), strict=True):
        if old is not None and new is not None:
            torch.testing.assert_close(new, old, rtol=2 * rounding(dtype), atol=underflow(dtype, 1))


@EVERY
@DTYPE
@EXAMPLES
@given(case=cases())
def test_direction(policy: Policy, dtype: torch.dtype, case: Case) -> None:
    """A block is multiplied by one factor, that of its norm and limit; an element never changes its sign."""
    for named, before, report in steps(policy, case, dtype):
        after = gradients(named)
        for old, new in zip(before, after, strict=True):
            if old is not None and new is not None:
                assert (exact(old) * exact(new) >= 0).all()
        if policy.kind in ("elementwise", "composite"):
            continue
        for block, found, limit, p in per_block(policy, report, named):
            true = norm(values(block, before), p)
            scales = {"limit": min(1.0, limit / true if true else 1.0), "rescale": limit / true if true else 1.0}
            expected = values(block, before) * scales.get(policy.kind, 1.0)
            error = abs(values(block, after) - expected)
            allowed = (2 * rounding(dtype) + 2e-6 * (found > limit or policy.kind == "rescale")) * abs(expected)
            assert (error <= allowed + underflow(dtype, 1)).all()


@EVERY
@EXAMPLES
@given(case=cases())
def test_the_order_of_parameters_does_not_matter(policy: Policy, case: Case) -> None:
    if policy.name == "agc" or policy.scope == "group":
        return  # which layer is the last, and which group a place is in, are a matter of order here
    named, twins = made(case, torch.float64), made(case, torch.float64)
    one, other = clipper(named, policy).clip(), clipper(twins[::-1], policy).clip()
    floor = 1e-300
    assert one.before.item() == pytest.approx(other.before.item(), rel=1e-12, abs=floor)
    assert one.after.item() == pytest.approx(other.after.item(), rel=1e-12, abs=floor)
    for name, pair in one.by_parameter().items():
        assert other.by_parameter()[name] == pytest.approx(pair, rel=1e-12, abs=floor)


@EVERY
@DTYPE
@EXAMPLES
@given(case=cases())
def test_truth(policy: Policy, dtype: torch.dtype, case: Case) -> None:
    """Both norms, of all gradients and of each parameter, agree with a measurement in float64."""
    for named, before, report in steps(policy, case, dtype):
        after = gradients(named)
        floor = underflow(dtype, size(named))
        assert report.before.item() == pytest.approx(exact_norm(before), rel=1e-6, abs=floor)
        assert report.after.item() == pytest.approx(exact_norm(after), rel=1e-6, abs=floor)
        for (name, pair), old, new in zip(report.by_parameter().items(), before, after, strict=True):
            assert pair == pytest.approx((exact_norm([old]), exact_norm([new])), rel=1e-6, abs=floor), name


@EVERY
def test_thousands_of_parameters(policy: Policy) -> None:
    named = made([((3, 2), "dense", 0.0)] * 3000, torch.float32)
    before = gradients(named)
    report = clipper(named, policy).clip()
    assert report.before.item() == pytest.approx(exact_norm(before), rel=1e-6)
    assert report.after.item() == pytest.approx(exact_norm(gradients(named)), rel=1e-6)


# -- other kinds of parameters


@EVERY
def test_a_tied_parameter_counts_once_and_a_frozen_one_not_at_all(policy: Policy) -> None:
    def parameters() -> Named:
        named = made([((3, 5), "dense", 1.0), ((4, 2), "dense", 1.0), ((4, 2), "none", 0.0)], torch.float32)
        named[2][1].requires_grad_(False)
        return named

    plain, tied = parameters(), parameters()
    one = clipper(plain, policy).clip()
    groups = [{"params": [tied[0][1]]}, {"params": [tied[1][1], tied[2][1]]}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    other = Clipper([*tied, ("again", tied[0][1])], policy, optimizer=optimizer).clip()
    if policy.scope != "group":  # the groups of the two optimizers differ
        assert one.by_parameter() == other.by_parameter()
        assert all(same(a, b) for a, b in zip(gradients(plain), gradients(tied), strict=True))
    assert tied[2][1].grad is None


@EVERY
def test_sparse_gradients(policy: Policy) -> None:
    """As the same gradient written out, or a clear refusal where rows or elements have a meaning of their own."""
    dense, sparse = nn.Embedding(6, 3), nn.Embedding(6, 3, sparse=True)
    sparse.load_state_dict(dense.state_dict())
    for table in (dense, sparse):
        (5 * table(torch.tensor([1, 4, 1]))).sum().backward()
    named = [[("table", table.weight)] for table in (dense, sparse)]
    if policy.scope == "unit" or policy.name == "spike":
        with pytest.raises(ValueError, match="cannot take a sparse gradient"):
            clipper(named[1], policy).clip()
        return
    one, other = (clipper(each, policy).clip() for each in named)
    assert one.before.item() == pytest.approx(other.before.item(), rel=1e-6)
    assert one.after.item() == pytest.approx(other.after.item(), rel=1e-6)
    torch.testing.assert_close(dense.weight.grad, sparse.weight.grad.to_dense())


# -- memory

USUAL: Case = [((3, 5), "dense", 0.0), ((7,), "dense", 0.0), ((4, 2), "dense", 1.0), ((), "dense", -3.0)]


def quick(policy: Policy) -> Policy:
    """The same policy with a warm-up of a few steps."""
    if isinstance(policy, Chain):
        return policy
    return replace(policy, warmup=2) if hasattr(policy, "warmup") else policy


Spoil = Callable[[int, Named], None]


def run(
    policy: Policy, seeds: list[int], work: Clipper | None = None, spoil: Spoil = lambda *_: None
) -> tuple[Clipper, list[list[Tensor | None]]]:
    """A Clipper after steps with the gradients of these seeds, some of them spikes, and what it left each time."""
    named = made(USUAL, torch.float32)
    fresh = clipper(named, policy)
    if work is not None:
        fresh.load_state_dict(work.state_dict())
    history = []
    for seed in seeds:
        for (_, parameter), (_, other) in zip(named, made(USUAL, torch.float32, seed), strict=True):
            parameter.grad = other.grad * (100 if seed % 7 == 6 else 1)
        spoil(seed, named)
        fresh.clip()
        history.append(gradients(named))
    return fresh, history


@EVERY
def test_a_saved_memory_continues_bit_for_bit(policy: Policy) -> None:
    policy = quick(policy)
    _, whole = run(policy, list(range(20)))
    half, _ = run(policy, list(range(11)))
    file = io.BytesIO()
    torch.save(half.state_dict(), file)
    file.seek(0)
    half.load_state_dict(torch.load(file, weights_only=True))
    _, rest = run(policy, list(range(11, 20)), half)
    for one, other in zip(whole[11:], rest, strict=True):
        assert all(same(a, b) for a, b in zip(one, other, strict=True))


@EVERY
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("mode", ["drop", "keep"])
def test_a_memory_is_never_poisoned(policy: Policy, bad: float, mode: str) -> None:
    def spoil(seed: int, named: Named) -> None:
        if seed in (1, 5, 6):
            named[0][1].grad.view(-1)[0] = bad

    _, spoilt = run(replace(quick(policy), nonfinite=mode), list(range(16)), spoil=spoil)
    for step in (7, 15):
        assert all(gradient is not None and gradient.isfinite().all() for gradient in spoilt[step])


@EVERY
def test_a_zero_or_missing_gradient_does_not_freeze_a_block(policy: Policy) -> None:
    """Absent while the memory begins, a block still learns afterwards: it is neither erased nor left unlimited."""

    def spoil(seed: int, named: Named) -> None:
        if seed < 4:
            named[0][1].grad.zero_()
            named[2][1].grad = None

    _, found = run(quick(policy), list(range(20)), spoil=spoil)
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in found[19])


@EVERY
def test_memories_are_bounded(policy: Policy) -> None:
    def numbers(state: Any) -> int:
        if isinstance(state, dict):
            return sum(map(numbers, state.values()))
        return state.numel() if isinstance(state, Tensor) else 0

    policy = replace(policy, window=5) if hasattr(policy, "window") else policy
    sizes = {count: numbers(run(policy, list(range(count)))[0].state_dict()) for count in (6, 30)}
    assert sizes[6] == sizes[30]


# -- non-finite gradients


@EVERY
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_zero_sets_bad_elements_to_zero_before_measuring(policy: Policy, bad: float) -> None:
    named = made([((2,), "equal", 0.0), ((1,), "equal", 0.0)], torch.float32)
    named[0][1].grad = torch.tensor([bad, 3.0])
    named[1][1].grad = torch.tensor([4.0])
    report = clipper(named, replace(policy, nonfinite="zero")).clip()
    assert report.before.item() == pytest.approx(5.0)
    assert named[0][1].grad[0] == 0


@EVERY
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_drop_leaves_the_step_out(policy: Policy, bad: float) -> None:
    named = made([((2,), "equal", 0.0)], torch.float32)
    work = clipper(named, replace(policy, nonfinite="drop"))
    named[0][1].grad = torch.tensor([bad, 3.0])
    assert work.clip().dropped
    named[0][1].grad = torch.tensor([0.3, 0.4])
    assert not work.clip().dropped


@EVERY
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_error_names_the_parameter_and_changes_nothing(policy: Policy, bad: float) -> None:
    named = made(USUAL, torch.float32)
    named[2][1].grad[0, 0] = bad
    before = gradients(named)
    with pytest.raises(NonFiniteGradientError, match=r"layer1\.p2"):
        clipper(named, policy).clip()
    for old, new in zip(before, gradients(named), strict=True):
        torch.testing.assert_close(old, new, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("exponent", [38, 30, 22])
def test_the_largest_float32_gradients_are_scaled_and_not_erased(exponent: int) -> None:
    """torch's clip_grad_norm_ sets all of these to 0: their norm overflows float32."""
    named = made([((1000,), "equal", 0.0)] * 4, torch.float32)
    for _, parameter in named:
        parameter.grad = torch.full((1000,), 3.0 * 10.0**exponent)
    clipper(named, ClipByNorm(max=1e-3)).clip()
    assert exact_norm(gradients(named)) == pytest.approx(1e-3, rel=1e-6)
