"""Properties that hold for every policy in conf/clip, at every kind of scope, in every precision.

Inputs are drawn by hypothesis. Norms and blocks are computed independently of the library, by NumPy in float64.
"""

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from gradclip import Chain, ClipByNorm, Clipper, ClipReport, NonFiniteGradientError, Policy
from tests.gradclip.support import cases, pairs
from tests.support import exact, exact_norm, policies, policy_id, scope_of

pytestmark = pytest.mark.filterwarnings("ignore:clip.. found no gradient")
PAIRS = pytest.mark.parametrize("policy", pairs(), ids=policy_id)
CASES = pytest.mark.parametrize(("policy", "dtype"), cases())
EXAMPLES = settings(max_examples=12, deadline=None)
Named = list[tuple[str, nn.Parameter]]
Model = list[tuple[tuple[int, ...], str, float]]  # each parameter's shape, and the kind and magnitude of its gradient
Block = list[tuple[int, int | None]]  # indices of parameters, with a row where a unit is a row
USUAL: Model = [((3, 5), "dense", 0.0), ((7,), "dense", 0.0), ((4, 2), "dense", 1.0), ((), "dense", -3.0)]


@st.composite
def models(draw: st.DrawFn) -> Model:
    """Draws the shapes, kinds and magnitudes of a model's gradients."""
    shape = st.sampled_from([(), (1,), (7,), (3, 5), (40, 30), (2, 3, 3, 3), (0,), (4, 0), (1500,)])
    kind = st.sampled_from(["dense", "dense", "dense", "none", "zero", "transposed", "equal", "sliced"])
    magnitude = st.sampled_from([-30.0, -3.0, 0.0, 0.0, 1.0, 30.0])
    return draw(st.lists(st.tuples(shape, kind, magnitude), min_size=1, max_size=8))


def made(model: Model, dtype: torch.dtype, seed: int = 0) -> Named:
    """Makes parameters with weights and gradients, two per layer."""
    random = torch.Generator().manual_seed(len(model) + 1000 * seed)
    named: Named = []
    for number, (shape, kind, exponent) in enumerate(model):
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
    """Makes a Clipper with an optimizer of two parameter groups, which the scope group needs."""
    parameters = [parameter for _, parameter in named]
    groups = [{"params": part} for part in (parameters[::2], parameters[1::2]) if part]
    return Clipper(named, policy, optimizer=torch.optim.SGD(groups, lr=0.1))


def gradients(named: Named) -> list[Tensor | None]:
    return [None if p.grad is None else p.grad.clone(memory_format=torch.preserve_format) for _, p in named]


def blocks(policy: Policy, named: Named) -> list[Block]:
    """The blocks of a scope, each a list of pairs: a parameter's index, and a row or None."""
    indices = range(len(named))
    if scope_of(policy) == "unit":
        return [
            [(i, row)] for i in indices for row in (range(named[i][1].shape[0]) if named[i][1].dim() > 1 else [None])
        ]
    key: Callable[[int], Any] = {
        "model": lambda index: 0,
        "group": lambda index: index % 2,
        "layer": lambda index: named[index][0].split(".")[0],
        "parameter": lambda index: index,
        "element": lambda index: index,
    }[scope_of(policy)]
    found: dict[Any, list[tuple[int, int | None]]] = {}
    for index in indices:
        found.setdefault(key(index), []).append((index, None))
    return list(found.values())


def values(block: Block, tensors: list[Tensor | None]) -> NDArray[np.float64]:
    parts = [
        exact(tensor if row is None else tensor[row]) for index, row in block if (tensor := tensors[index]) is not None
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def norm(numbers: NDArray[np.float64], p: float) -> float:
    return exact_norm([torch.from_numpy(numbers)], p)


def rounding(dtype: torch.dtype) -> float:
    """The largest relative rounding of a scaled norm: half an eps per element, and that of a float32 factor."""
    return 0.51 * torch.finfo(dtype).eps if dtype.itemsize < 4 else 4 * torch.finfo(dtype).eps


def underflow(dtype: torch.dtype, count: int) -> float:
    """The largest error of a norm of `count` elements from rounding to the type's smallest number."""
    return torch.finfo(dtype).tiny * torch.finfo(dtype).eps * math.sqrt(max(count, 1))


def size(named: Named) -> int:
    return sum(parameter.numel() for _, parameter in named)


class Step(NamedTuple):
    """One step of a Clipper: the gradients before and after it, and its report."""

    policy: Policy
    clipper: Clipper
    dtype: torch.dtype
    named: Named
    before: list[Tensor | None]
    after: list[Tensor | None]
    report: ClipReport

    def blocks(self) -> Iterator[tuple[Block, float, float, float]]:
        """Each block with its norm and limit as reported, and its p; a chain has the blocks of all its links."""
        links = list(self.policy.links.values()) if isinstance(self.policy, Chain) else [self.policy]
        found = [(block, link.norm_type) for link in links for block in blocks(link, self.named)]
        assert len(found) == len(self.report.norms) == len(self.report.limits)
        figures = zip(found, self.report.norms.tolist(), self.report.limits.tolist(), strict=True)
        for (block, p), norm, limit in figures:
            yield block, norm, limit, p


def steps(policy: Policy, model: Model, dtype: torch.dtype) -> Iterator[Step]:
    """Yields three steps of one Clipper with different gradients, so that it has a memory."""
    named = made(model, dtype)
    work = clipper(named, policy)
    for number in range(3):
        for (_, parameter), (_, other) in zip(named, made(model, dtype, seed=number), strict=True):
            parameter.grad = other.grad
        before = gradients(named)
        report = work.clip()
        yield Step(policy, work, dtype, named, before, gradients(named), report)
        work.check()


def same(one: Tensor | None, other: Tensor | None) -> bool:
    return (one is None and other is None) or (one is not None and other is not None and torch.equal(one, other))


def test_every_policy_is_tested_and_every_kind_at_every_scope() -> None:
    assert {policy.name for policy in pairs()} == set(Policy.options)
    assert {(p.kind, scope_of(p)) for p in pairs()} == {(p.kind, scope_of(p)) for p in policies()}


# -- properties of a step


def no_block_exceeds_its_limit(step: Step) -> None:
    for block, _, limit, p in step.blocks():
        numbers = values(block, step.after)
        assert norm(numbers, p) <= limit * (1 + rounding(step.dtype)) + underflow(step.dtype, len(numbers))


def reported_norms_are_those_of_the_blocks(step: Step) -> None:
    for block, found, _, p in step.blocks():
        assert found == pytest.approx(norm(values(block, step.before), p), rel=1e-6)


def within_the_limit_gradients_are_bit_identical(step: Step) -> None:
    for block, found, limit, _ in step.blocks():
        if found <= limit:
            for index, row in block:
                old, new = step.before[index], step.after[index]
                assert same(old, new) if row is None or old is None or new is None else torch.equal(old[row], new[row])
    if step.report.fraction.item() == 0:
        assert step.report.before.item() == step.report.after.item()


def signs_are_kept(step: Step) -> None:
    for old, new in zip(step.before, step.after, strict=True):
        assert (old is None) == (new is None)
        if old is not None and new is not None:
            assert (exact(old) * exact(new) >= 0).all()


def a_block_is_multiplied_by_one_factor(step: Step) -> None:
    """The factor is min(1, limit / norm), or limit / norm for a policy that rescales."""
    for block, found, limit, p in step.blocks():
        before = values(block, step.before)
        true = norm(before, p)
        scales = {"limit": min(1.0, limit / true if true else 1.0), "rescale": limit / true if true else 1.0}
        expected = before * scales.get(step.policy.kind, 1.0)
        error = abs(values(block, step.after) - expected)
        scaled = found > limit or step.policy.kind == "rescale"
        allowed = (2 * rounding(step.dtype) + 2e-6 * scaled) * abs(expected)
        assert (error <= allowed + underflow(step.dtype, 1)).all()


def reported_2_norms_are_accurate(step: Step) -> None:
    """The norms of all gradients and of each parameter, before and after."""
    report, floor = step.report, underflow(step.dtype, size(step.named))
    assert report.before.item() == pytest.approx(exact_norm(step.before), rel=1e-6, abs=floor)
    assert report.after.item() == pytest.approx(exact_norm(step.after), rel=1e-6, abs=floor)
    for (name, pair), old, new in zip(report.by_parameter().items(), step.before, step.after, strict=True):
        assert pair == pytest.approx((exact_norm([old]), exact_norm([new])), rel=1e-6, abs=floor), name


def clipping_is_idempotent_up_to_rounding(step: Step) -> None:
    """Only for policies without a memory."""
    if any(link["memory"] or link["elements"] for link in step.clipper.state_dict().values()):
        return
    step.clipper.clip()
    for old, new in zip(step.after, gradients(step.named), strict=True):
        if old is not None and new is not None:
            torch.testing.assert_close(new, old, rtol=2 * rounding(step.dtype), atol=underflow(step.dtype, 1))


def laws(policy: Policy) -> list[Callable[[Step], None]]:
    """The properties that hold for a policy of its kind."""
    found: list[Callable[[Step], None]] = [signs_are_kept, reported_2_norms_are_accurate]
    if policy.kind not in ("measure", "decision"):
        found.append(no_block_exceeds_its_limit)
    if policy.kind != "composite":  # whose later links measure what the earlier ones left
        found.append(reported_norms_are_those_of_the_blocks)
    if policy.kind not in ("elementwise", "composite"):
        found.append(a_block_is_multiplied_by_one_factor)
    if policy.kind not in ("rescale", "composite") and not remembers_elements(policy):
        found += [within_the_limit_gradients_are_bit_identical, clipping_is_idempotent_up_to_rounding]
    return found


def remembers_elements(policy: Policy) -> bool:
    """Whether the policy has a memory for every element."""
    return getattr(policy, "remembers", False)


@CASES
@EXAMPLES
@given(model=models())
def test_every_step_obeys_the_laws(policy: Policy, dtype: torch.dtype, model: Model) -> None:
    weights = [parameter.detach() for _, parameter in made(model, dtype)]
    for step in steps(policy, model, dtype):
        for law in laws(policy):
            law(step)
        assert all(torch.equal(p.detach(), weight) for (_, p), weight in zip(step.named, weights, strict=True))


def depends_on_order(policy: Policy) -> bool:
    """Whether the parameters' order matters, as for the groups of the optimizer."""
    return scope_of(policy) == "group"


@pytest.mark.parametrize("policy", [policy for policy in pairs() if not depends_on_order(policy)], ids=policy_id)
@EXAMPLES
@given(model=models())
def test_the_order_of_parameters_does_not_matter(policy: Policy, model: Model) -> None:
    named, twins = made(model, torch.float64), made(model, torch.float64)
    one, other = clipper(named, policy).clip(), clipper(twins[::-1], policy).clip()
    floor = 1e-300
    assert one.before.item() == pytest.approx(other.before.item(), rel=1e-12, abs=floor)
    assert one.after.item() == pytest.approx(other.after.item(), rel=1e-12, abs=floor)
    for name, pair in one.by_parameter().items():
        assert other.by_parameter()[name] == pytest.approx(pair, rel=1e-12, abs=floor)


@pytest.mark.parametrize("policy", {scope_of(policy): policy for policy in pairs()}.values(), ids=policy_id)
def test_thousands_of_parameters_are_measured_accurately(policy: Policy) -> None:
    """At every scope; the norms of many small parameters are combined differently."""
    named = made([((3, 2), "dense", 0.0)] * 3000, torch.float32)
    before = gradients(named)
    report = clipper(named, policy).clip()
    assert report.before.item() == pytest.approx(exact_norm(before), rel=1e-6)
    assert report.after.item() == pytest.approx(exact_norm(gradients(named)), rel=1e-6)


# -- other kinds of parameters


@PAIRS
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
    if scope_of(policy) != "group":  # the groups of the two optimizers differ
        assert one.by_parameter() == other.by_parameter()
        assert all(same(a, b) for a, b in zip(gradients(plain), gradients(tied), strict=True))
    assert tied[2][1].grad is None


@PAIRS
def test_sparse_gradients(policy: Policy) -> None:
    """Equal to the same dense gradient, or a clear error if the policy needs rows or elements."""
    dense, sparse = nn.Embedding(6, 3), nn.Embedding(6, 3, sparse=True)
    sparse.load_state_dict(dense.state_dict())
    for table in (dense, sparse):
        (5 * table(torch.tensor([1, 4, 1]))).sum().backward()
    named = [[("table", table.weight)] for table in (dense, sparse)]
    if scope_of(policy) == "unit" or remembers_elements(policy):
        with pytest.raises(ValueError, match=r"cannot take the (sparse )?gradient of table"):
            clipper(named[1], policy).clip()
        return
    one, other = (clipper(each, policy).clip() for each in named)
    assert one.before.item() == pytest.approx(other.before.item(), rel=1e-6)
    assert one.after.item() == pytest.approx(other.after.item(), rel=1e-6)
    torch.testing.assert_close(dense.weight.grad, sparse.weight.grad.to_dense())


# -- memory


def quick(policy: Policy) -> Policy:
    """The same policy with a warm-up of two steps."""
    if isinstance(policy, Chain):
        return policy
    return replace(policy, warmup=2) if hasattr(policy, "warmup") else policy


Spoil = Callable[[int, Named], None]


def run(
    policy: Policy, seeds: list[int], work: Clipper | None = None, spoil: Spoil = lambda *_: None
) -> tuple[Clipper, list[list[Tensor | None]]]:
    """Clips gradients of the given seeds, some with spikes; returns the Clipper and the gradients of each step."""
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


@PAIRS
def test_a_saved_memory_continues_bit_identically(policy: Policy) -> None:
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


@PAIRS
@pytest.mark.parametrize(("mode", "bad"), [("drop", math.nan), ("keep", math.nan), ("keep", math.inf)])
def test_a_nonfinite_gradient_enters_no_memory(policy: Policy, mode: str, bad: float) -> None:
    def spoil(seed: int, named: Named) -> None:
        if seed in (1, 5, 6):
            named[0][1].grad.view(-1)[0] = bad

    _, spoilt = run(replace(quick(policy), nonfinite=mode), list(range(16)), spoil=spoil)
    for step in (7, 15):
        assert all(gradient is not None and gradient.isfinite().all() for gradient in spoilt[step])


@PAIRS
def test_a_zero_or_missing_gradient_does_not_freeze_a_block(policy: Policy) -> None:
    """A block without gradients at first is measured later: it is neither zeroed nor unlimited."""

    def spoil(seed: int, named: Named) -> None:
        if seed < 4:
            named[0][1].grad.zero_()
            named[2][1].grad = None

    _, found = run(quick(policy), list(range(20)), spoil=spoil)
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in found[19])


@PAIRS
def test_memories_are_bounded(policy: Policy) -> None:
    def numbers(state: Any) -> int:
        if isinstance(state, dict):
            return sum(map(numbers, state.values()))
        return state.numel() if isinstance(state, Tensor) else 0

    policy = replace(policy, window=5) if hasattr(policy, "window") else policy
    sizes = {count: numbers(run(policy, list(range(count)))[0].state_dict()) for count in (6, 30)}
    assert sizes[6] == sizes[30]


# -- non-finite gradients


@PAIRS
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_zero_sets_nonfinite_elements_to_zero_before_measuring(policy: Policy, bad: float) -> None:
    named = made([((2,), "equal", 0.0), ((1,), "equal", 0.0)], torch.float32)
    named[0][1].grad = torch.tensor([bad, 3.0])
    named[1][1].grad = torch.tensor([4.0])
    report = clipper(named, replace(policy, nonfinite="zero")).clip()
    assert report.before.item() == pytest.approx(5.0)
    assert named[0][1].grad[0] == 0


@PAIRS
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_drop_drops_the_step(policy: Policy, bad: float) -> None:
    named = made([((2,), "equal", 0.0)], torch.float32)
    work = clipper(named, replace(policy, nonfinite="drop"))
    named[0][1].grad = torch.tensor([bad, 3.0])
    assert work.clip().dropped
    named[0][1].grad = torch.tensor([0.3, 0.4])
    assert not work.clip().dropped


@PAIRS
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
@pytest.mark.parametrize(("scope", "blocks"), [("model", 1), ("parameter", 4), ("unit", 4)])
def test_the_largest_float32_gradients_are_scaled_and_not_zeroed(scope: str, blocks: int, exponent: int) -> None:
    """torch's clip_grad_norm_ sets all of these to 0: their norm overflows float32."""
    named = made([((1000,), "equal", 0.0)] * 4, torch.float32)
    for _, parameter in named:
        parameter.grad = torch.full((1000,), 3.0 * 10.0**exponent)
    clipper(named, ClipByNorm(max=1e-3, scope=scope)).clip()
    assert exact_norm(gradients(named)) == pytest.approx(1e-3 * math.sqrt(blocks), rel=1e-6)
