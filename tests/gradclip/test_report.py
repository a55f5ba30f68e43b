"""ClipReport and ClipSummary: what they say, and when they read from the device."""

import copy
import gc
import math
import pickle
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradclip import (
    AGC,
    Chain,
    ClipByNorm,
    ClipByValue,
    ClipCheckError,
    Clipper,
    ClipReport,
    DropStep,
    NoClip,
    Policy,
    SpikeClip,
)
from tests.support import with_gradients

WEIGHT, BIAS = [3.0, 4.0], [0.5]  # norms of 5 and 0.5


def model_of(*gradients: Sequence[float]) -> nn.ParameterDict:
    return with_gradients([torch.tensor(list(gradient)) for gradient in gradients])


def clipped(policy: Policy, *gradients: Sequence[float]) -> ClipReport:
    return Clipper(model_of(*gradients), policy).clip()


# fraction


def test_elements_are_counted_when_the_fraction_is_read() -> None:
    model = model_of([1.0, -2.0, 0.5, 3.0])
    clipper = Clipper(model, ClipByValue(max=1.0))
    report = clipper.clip()
    assert report.fraction.item() == 0.75  # 1.0 is exactly at the bound, and counts
    model["p0"].grad = None
    assert report.fraction.item() == 0.75  # it is counted once


@pytest.mark.parametrize("change", ["removed", "replaced", "zeroed", "clipped again"])
def test_a_fraction_of_gradients_that_are_gone_is_an_error(change: str) -> None:
    model = model_of([1.0, -2.0])
    clipper = Clipper(model, ClipByValue(max=1.0))
    report = clipper.clip()
    if change == "removed":
        model.zero_grad()
    elif change == "replaced":
        model["p0"].grad = torch.zeros(2)
    elif change == "zeroed":
        model.zero_grad(set_to_none=False)
    else:
        clipper.clip()
    with pytest.raises(ClipCheckError, match=r"^fraction counts elements when it is first read"):
        report.fraction  # noqa: B018 (reading it is what raises)


def test_a_fraction_can_be_read_after_the_optimizers_step() -> None:
    model = model_of([1.0, -2.0, 0.5])
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    report = Clipper(model, ClipByValue(max=1.5)).clip()
    optimizer.step()
    assert report.fraction.item() == pytest.approx(1 / 3)


def test_the_fraction_of_a_chain_counts_elements_before_the_next_link_changes_them() -> None:
    chain = Chain(links={"elements": ClipByValue(max=1.0), "whole": ClipByNorm(max=0.1)})
    model = model_of([1.0, -2.0, 0.5, 0.25])
    clipper = Clipper(model, chain)
    report = clipper.clip()
    clipper.clip()
    assert report.fraction.item() == pytest.approx(3 / 5)  # two of four elements, and the one block of the second link
    assert report.limited.tolist() == [True, True]
    assert report.labels == ("elements: p0", "whole: model")


def test_elements_with_bounds_of_their_own_are_counted_at_once() -> None:
    model = model_of([1.0, 1.0])
    clipper = Clipper(model, SpikeClip(theta=4.0, beta=0.5, warmup=1))
    clipper.clip()
    model["p0"].grad = torch.tensor([1.0, 100.0])
    report = clipper.clip()
    model.zero_grad()
    assert report.fraction.item() == 0.5
    assert report.limited.tolist() == [True]


def test_a_bound_of_infinity_limits_nothing() -> None:
    report = clipped(ClipByValue(max=math.inf, nonfinite="keep"), [math.inf, 1.0])
    assert (report.fraction.item(), report.limited.tolist()) == (0.0, [False])


# what is printed


@pytest.mark.parametrize(
    ("policy", "line"),
    [
        (ClipByNorm(max=1.0), "gradient norm 5.025 -> 1 (1 of 1 blocks limited)"),
        (ClipByNorm(max=1.0, scope="parameter"), "gradient norm 5.025 -> 1.118 (1 of 2 blocks limited)"),
        (ClipByNorm(max=9.0), "gradient norm 5.025 -> 5.025 (0 of 1 blocks limited)"),
        (NoClip(), "gradient norm 5.025 -> 5.025 (0 of 1 blocks limited)"),
        (ClipByValue(max=3.5), "gradient norm 5.025 -> 4.637 (1 of 2 blocks limited)"),
        (DropStep(max=1.0), "gradient norm 5.025, step dropped"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_report_prints_as_one_line(policy: Policy, line: str) -> None:
    report = clipped(policy, WEIGHT, BIAS)
    assert str(report) == repr(report) == line


def test_a_description_names_the_most_exceeded_limits_first() -> None:
    report = clipped(ClipByNorm(max=0.25, scope="parameter"), *([float(number)] for number in range(8)))
    assert report.describe().splitlines() == [
        "gradient norm 11.83 -> 0.6614 (7 of 8 blocks limited)",
        "  p7: 7 is 28 times its limit 0.25",
        "  p6: 6 is 24 times its limit 0.25",
        "  p5: 5 is 20 times its limit 0.25",
        "  p4: 4 is 16 times its limit 0.25",
        "  p3: 3 is 12 times its limit 0.25",
        "  and 2 more",
    ]


def test_a_description_without_a_limited_block_names_the_nearest() -> None:
    report = clipped(ClipByNorm(max=10.0, scope="parameter"), WEIGHT, BIAS)
    assert report.describe().splitlines()[1:] == ["  nearest to its limit: p0, 5, 50 % of 10"]
    assert clipped(NoClip(), WEIGHT).describe() == "gradient norm 5 -> 5 (0 of 1 blocks limited)"


def test_a_description_names_gradients_that_are_not_finite() -> None:
    report = clipped(ClipByNorm(max=1.0, nonfinite="drop"), WEIGHT, [math.nan], [math.inf])
    assert report.describe().splitlines() == ["gradient norm nan, step dropped", "  not finite: p1, p2"]


def test_the_units_of_a_description_are_rows() -> None:
    model = model_of([1.0])
    model["w"] = nn.Parameter(torch.eye(2))
    model["w"].grad = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    report = Clipper(model, AGC(ratio=0.5, exclude=["p0"])).clip()
    assert report.describe().splitlines()[1] == "  w[1]: 5 is 10 times its limit 0.5"
    assert report.labels == ("w[0]", "w[1]")


# copies


@pytest.mark.parametrize("policy", [ClipByNorm(max=1.0), ClipByValue(max=1.0)], ids=lambda policy: policy.name)
def test_a_copied_report_counts_before_it_is_copied(policy: Policy) -> None:
    model = model_of(WEIGHT, BIAS)
    report = Clipper(model, policy).clip()
    copies = [copy.deepcopy(report), pickle.loads(pickle.dumps(report))]
    model.zero_grad()
    for one in copies:
        assert one.describe() == report.describe()
        assert torch.equal(one.fraction, report.fraction)


@pytest.mark.parametrize("policy", [ClipByNorm(max=1.0), ClipByValue(max=1.0)], ids=lambda policy: policy.name)
def test_a_deleted_clipper_frees_the_model_at_once(policy: Policy) -> None:
    """A cycle of references would keep a model's memory until the garbage collector runs."""
    model = model_of(WEIGHT)
    clipper = Clipper(model, policy)
    clipper.clip()
    clipper.check()
    reference = weakref.ref(model["p0"])
    gc.disable()
    try:
        del model, clipper
        assert reference() is None
    finally:
        gc.enable()


# summary


def test_a_summary_counts_steps_and_blocks() -> None:
    model = model_of([0.0], [0.0])
    clipper = Clipper(model, ClipByNorm(max=1.0, scope="parameter", nonfinite="drop"))
    for weight, bias in [(2.0, 0.5), (3.0, 4.0), (0.5, 0.5), (math.nan, 1.0)]:
        model["p0"].grad, model["p1"].grad = torch.tensor([weight]), torch.tensor([bias])
        clipper.clip()
    summary = clipper.summary()
    norms = [math.hypot(2.0, 0.5), 5.0, math.hypot(0.5, 0.5)]
    assert (summary.steps, summary.limited, summary.dropped, summary.norms) == (4, 0.5, 1, 3)
    assert summary.quantiles[0.5] == pytest.approx(sorted(norms)[1], rel=1e-6)
    assert summary.quantiles[1.0] == pytest.approx(5.0, rel=1e-6)
    assert summary.blocks == {"p0": 0.5, "p1": 0.25}
    assert str(summary).splitlines() == [
        "4 steps: 50 % limited, 1 dropped",
        "gradient norm before clipping, last 3 steps: 10 % 0.978, median 2.062, 90 % 4.412, 99 % 4.941, largest 5",
        "limited most often: p0 50 %, p1 25 %",
    ]


def test_a_summary_before_the_first_step() -> None:
    assert str(Clipper(model_of(WEIGHT), ClipByNorm(max=1.0)).summary()) == "0 steps: 0 % limited"


def test_a_summary_keeps_the_counts_of_blocks_that_were_removed() -> None:
    model = model_of([2.0], [2.0])
    clipper = Clipper(model, ClipByNorm(max=1.0, scope="parameter"))
    clipper.clip()
    del model["p1"]
    model["p0"].grad = torch.tensor([2.0])
    clipper.clip()
    assert clipper.summary().blocks == {"p0": 1.0, "p1": 0.5}
    assert copy.deepcopy(clipper).summary() == clipper.summary()


def test_blocks_that_alternate_are_counted_without_growth() -> None:
    model = model_of([2.0], [2.0])
    clipper = Clipper(model, ClipByNorm(max=1.0, scope="parameter"))
    for step in range(40):
        clipper.policy.include = ["p0"] if step % 2 else []
        model["p0"].grad, model["p1"].grad = torch.tensor([2.0]), torch.tensor([2.0])
        clipper.clip()
    assert clipper.summary().blocks == {"p0": 1.0, "p1": 0.5}
    assert len(clipper._tally._by_blocks) == 2


def test_a_summary_takes_the_quantiles_of_the_last_thousand_norms() -> None:
    model = model_of([0.0])
    clipper = Clipper(model, NoClip())
    for step in range(1100):
        model["p0"].grad = torch.tensor([float(step)])
        clipper.clip()
    summary = clipper.summary()
    assert (summary.steps, summary.norms, summary.quantiles[1.0]) == (1100, 1000, 1099.0)
    assert summary.quantiles[0.1] == pytest.approx(100 + 99.9)


# misuse


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (0.5, r"is the number 0\.5; write ClipByNorm\(max=1\.0\)"),
        ([ClipByNorm(max=1.0)], r"is a list; Chain\(links=\{'first': …\}\) applies several"),
        (ClipByNorm, r"is the class ClipByNorm; make an instance: ClipByNorm\(…\)"),
        ({"name": "norm", "max": 1.0}, r"such as ClipByNorm\(max=1\.0\), and is \{'name'"),
        (None, "such as ClipByNorm"),
        ("norm", "such as ClipByNorm"),
    ],
)
def test_what_is_not_a_policy_is_refused(policy: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Clipper(model_of(WEIGHT), policy)


@pytest.mark.parametrize("source", [0.5, {"p0": nn.Parameter(torch.zeros(1))}, "model", [1.0], None])
def test_what_has_no_named_parameters_is_refused(source: object) -> None:
    with pytest.raises(TypeError, match=r"Clipper takes a module or named_parameters\(\), not "):
        Clipper(source, ClipByNorm(max=1.0))


def test_a_generator_that_is_used_twice_is_refused() -> None:
    named = model_of(WEIGHT).named_parameters()
    Clipper(named, ClipByNorm(max=1.0))
    with pytest.raises(ValueError, match="an iterator can be read only once"):
        Clipper(named, ClipByNorm(max=1.0))


def test_an_unknown_scope_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"^scope=modul: must be model, group, layer, parameter or unit$"):
        ClipByNorm(max=1.0, scope="modul")


@pytest.mark.parametrize("optimizer", [0.1, [nn.Linear(1, 1)], "sgd"])
def test_what_is_not_an_optimizer_is_refused(optimizer: object) -> None:
    with pytest.raises(TypeError, match="optimizer must be an optimizer, or a list of them"):
        Clipper(model_of(WEIGHT), ClipByNorm(max=1.0), optimizer=optimizer)


def tensors_of(report: ClipReport) -> list[Tensor]:
    return [value for value in vars(report).values() if isinstance(value, Tensor)]


def test_a_report_holds_no_gradient() -> None:
    model = model_of([1.0] * 1000)
    report = Clipper(model, ClipByValue(max=1.0)).clip()
    assert all(tensor.numel() <= 1 for tensor in tensors_of(report))


def test_a_link_that_is_no_policy_is_refused() -> None:
    with pytest.raises(ValueError, match=r"links=.*at least one policy, by a label"):
        Chain(links=[ClipByNorm(max=1.0)])
    wrong: list[Any] = [0.5, ClipByNorm]
    for link in wrong:
        with pytest.raises(TypeError, match="the policy is the "):
            Chain(links={"first": link})


def test_a_policy_that_is_replaced_by_something_else_is_refused() -> None:
    clipper = Clipper(model_of(WEIGHT), ClipByNorm(max=1.0))
    clipper.policy = 0.5
    with pytest.raises(TypeError, match=r"the policy is the number 0\.5"):
        clipper.clip()


def test_an_optimizer_of_another_model_is_refused() -> None:
    other = torch.optim.SGD(model_of(WEIGHT).parameters())
    with pytest.raises(ValueError, match="optimizer has none of the Clipper's parameters"):
        Clipper(model_of(WEIGHT), ClipByNorm(max=1.0), optimizer=other)


def test_a_fraction_concerns_the_clippers_own_parameters() -> None:
    model = nn.ModuleDict({"own": model_of([1.0, 0.1]), "other": model_of([1.0])})
    optimizer = torch.optim.SGD(model.parameters())
    clipper = Clipper(model["own"], ClipByValue(max=0.5), optimizer=optimizer)
    report = clipper.clip()
    clipper.policy.exclude = ["*"]
    assert report.fraction.item() == 0.5
    with pytest.raises(ClipCheckError, match="is not a parameter of the Clipper"):
        clipper.check()


def test_a_description_is_in_order_beside_a_nan() -> None:
    norms = [1.5, math.nan, 30.0, 2.0, 500.0, 7.0]
    report = clipped(ClipByNorm(max=1.0, scope="parameter", nonfinite="keep"), *([norm] for norm in norms))
    lines = report.describe().splitlines()
    assert lines[1] == "  not finite: p1"
    assert [float(line.split()[1]) for line in lines[2:]] == [500.0, 30.0, 7.0, 2.0, 1.5]


def test_reports_can_be_compared_and_found_in_lists() -> None:
    one, other = (clipped(ClipByNorm(max=1.0, scope="parameter"), WEIGHT, BIAS) for _ in range(2))
    assert one != other
    assert one in [other, one]


def test_the_counts_of_links_that_are_swapped_stay_theirs() -> None:
    model = model_of([2.0])
    links = {"low": ClipByNorm(max=1.0), "high": ClipByNorm(max=100.0)}
    clipper = Clipper(model, Chain(links=links))
    for order in (("low", "high"), ("high", "low")):
        clipper.policy.links = {label: links[label] for label in order}
        model["p0"].grad = torch.tensor([2.0])
        clipper.clip()
    assert clipper.summary().blocks == {"low: model": 1.0, "high: model": 0.0}
