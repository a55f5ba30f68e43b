"""The costs in gradclip's README are those that evidence/library_costs.py counts, and what its text says of them."""

from dataclasses import replace

import pytest
import torch

from evidence import library_costs, pages
from evidence.accesses import Accesses
from evidence.library_costs import BEYOND, LINKS, PAGE, Case, Costs, cases, costs
from gradclip import ClipByNorm, DropStep, NoClip
from gradclip.norms import LARGE_PART, PART, SMALL

TEXT = PAGE.read_text(encoding="utf-8")
CASES = cases()


def documented() -> dict[Case, list[str]]:
    """The cells of the README's table by policy and scope; every pair has one row."""
    found: dict[Case, list[str]] = {}
    for names, scopes, *row in pages.cells(pages.content(TEXT, "costs")):
        for name in names.split(", "):
            for scope in [LINKS] if scopes == LINKS else scopes.split(", "):
                assert (name.strip("`"), scope) not in found
                found[name.strip("`"), scope] = row
    return found


def test_the_counts_of_one_process() -> None:
    counted = library_costs.cells()
    assert {case: [*row[:3], *row[4:]] for case, row in documented().items()} == counted


@pytest.mark.slow
def test_the_collectives() -> None:
    found = library_costs.collectives()
    counted = {case: library_costs.collectives_cell(sent) for case, sent in found["sharded"].items()}
    assert {case: row[3] for case, row in documented().items()} == counted
    for case in CASES:
        (name, scope), by_block = case, {"model": 1, "group": 2, LINKS: 1}
        expected = [1, 1] + [1] * (name == "adagc")
        expected += [by_block[scope]] * (2 if name == "rms" else 1) if scope in by_block else []
        assert sorted(found["pipeline"][case]) == [("allgather_", size) for size in sorted(expected)]
        assert found["replicated"][case] == [("allreduce_", 4)]


def passes(costs: Costs) -> tuple[int, int]:
    """Reads and writes of gradients; asserts that there are none of other tensors."""
    assert not costs.other_reads
    assert not costs.other_writes
    return costs.reads, costs.writes


def test_what_saves_passes_on_an_accelerator() -> None:
    policy = ClipByNorm(max=1.0)
    assert passes(costs(policy, "meta")) == passes(costs(replace(policy, nonfinite="zero"), "meta")) == (3, 2)
    assert passes(costs(replace(policy, nonfinite="keep"), "meta")) == (2, 1)
    weights = [torch.nn.Parameter(torch.randn(library_costs.SHAPE, device="meta")) for _ in range(2)]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    with Accesses([weight.grad for weight in weights if weight.grad is not None]) as accesses:
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
    total = sum(weight.numel() for weight in weights)
    assert (accesses.elements["read", True], accesses.elements["write", True]) == (2 * total, total)


@pytest.mark.parametrize("policy", [NoClip(), ClipByNorm(max=1.0), DropStep(max=1.0)], ids=lambda policy: policy.name)
def test_what_waits_for_an_accelerator(policy: ClipByNorm) -> None:
    assert costs(replace(policy, nonfinite="drop"), "meta").copies == 1 + (policy.name == "drop")


def test_what_adds_a_pass() -> None:
    scaling = [(*case, policy) for case, policy in CASES.items() if case[0] in ("norm", "normalize", "ema", "agc")]
    for _, scope, policy in scaling:
        for device in ("cpu", "meta"):
            single, half = (costs(policy, device, BEYOND, dtype) for dtype in (torch.float32, torch.bfloat16))
            assert half.reads - single.reads == (scope != "unit"), policy
    for p in (1.0, 3.0, torch.inf):
        assert costs(NoClip(norm_type=p), "cpu").reads == costs(NoClip(), "cpu").reads + 1
        assert costs(NoClip(norm_type=p), "meta").reads == costs(NoClip(), "meta").reads + 1


def test_the_sizes_in_the_text() -> None:
    section = " ".join(TEXT.partition("## What it costs")[2].split())
    for size in (SMALL, PART, LARGE_PART):
        assert f"{size:,} elements" in section


def test_accesses() -> None:
    own, other = torch.ones(10), torch.ones(10)
    with Accesses([own]) as accesses:
        (own.view(2, 5).t() + other.view(5, 2)).sum()
        own[:5].mul_(other[0])
        own[:5].copy_(other[:1].expand(5))
        torch.abs(own, out=torch.empty(10))
        own.new_zeros(3)
    assert accesses.elements == {("read", True): 25, ("write", True): 10, ("read", False): 22, ("write", False): 24}
    with Accesses() as accesses:
        assert not torch.ones(2, device="meta").any()
    assert accesses.copies == 1


def test_blocks_that_are_not_limited_as_expected_are_an_error() -> None:
    with pytest.raises(ValueError, match="its blocks are not limited as"):
        costs(ClipByNorm(max=1e9), "cpu", BEYOND)
