"""clip.fold=auto: a fused optimizer multiplies in its step; the weights, the report and check() stay as they are."""

import copy
import json
import logging
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradclip import (
    AutoClip,
    Chain,
    ClipByNorm,
    ClipByValue,
    ClipCheckError,
    Clipper,
    InvalidField,
    Normalize,
    Policy,
    SoftClip,
)
from gradclip.folding import Folding
from gradclip.gradients import Parameters
from tests.support import exact_norm
from tests.trainer.support import train

FUSED = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2, fused=True),
}
FOLDING: list[Policy] = [
    ClipByNorm(max=0.5, fold="auto"),
    ClipByNorm(max=0.1, norm_type=math.inf, fold="auto"),
    AutoClip(percentile=50.0, fold="auto"),
    Normalize(max=0.3, fold="auto"),
    SoftClip(max=0.3, fold="auto"),
]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each scale was handed over."""
    found, real = [], Folding.take

    def take(self: Folding, gradients: Any, scale: Any) -> bool:
        found.append(real(self, gradients, scale))
        return found[-1]

    monkeypatch.setattr(Folding, "take", take)
    return found


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 33), nn.Tanh(), nn.Linear(33, 3))


def backward(model: nn.Module, step: int) -> Tensor:
    random = torch.Generator().manual_seed(step)
    inputs = torch.randn(8, 7, generator=random) * (10.0 if step % 7 == 0 else 1.0)
    loss: Tensor = (model(inputs) - inputs[:, :3]).square().mean()
    return loss


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def trained(policy: Policy, build: Callable[..., Any], steps: int = 200, amp: bool = False) -> tuple[Any, list[Any]]:
    """The weights after so many steps, and every step's norms and fraction."""
    model = network()
    optimizer = build(model.parameters())
    clipper = Clipper(model.named_parameters(), policy, optimizer=optimizer)
    scaler = torch.amp.GradScaler("cpu", enabled=amp, init_scale=2.0**10, growth_interval=20)
    told = []
    for step in range(steps):
        optimizer.zero_grad()
        scaler.scale(backward(model, step)).backward()  # type: ignore[no-untyped-call]
        scaler.unscale_(optimizer)
        report = clipper.clip()
        clipper.check()
        scaler.step(optimizer)
        scaler.update()
        told.append(
            (report.before.item(), report.after.item(), report.fraction.item(), *report.by_parameter().values())
        )
    return [p.detach().clone() for p in model.parameters()], told


def without(policy: Policy) -> Policy:
    plain = copy.copy(policy)
    plain.fold = "never"
    return plain


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("build", FUSED.values(), ids=FUSED)
def test_the_weights_and_the_reports_are_those_without_folding(
    build: Callable[..., Any], amp: bool, taken: list[bool]
) -> None:
    folded, told = trained(FOLDING[0], build, amp=amp)
    plain, expected = trained(without(FOLDING[0]), build, amp=amp)
    assert 0 < sum(fraction for _, _, fraction, *_ in told) == len(taken) < 200  # at some steps, and not at others
    assert all(taken)
    for mine, theirs in zip(folded, plain, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)
    for mine, theirs in zip(told, expected, strict=True):
        assert mine[:3] == pytest.approx(theirs[:3], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("policy", FOLDING[1:], ids=lambda policy: policy.name)
def test_every_policy_with_one_scale_folds(policy: Policy, taken: list[bool]) -> None:
    folded, _ = trained(policy, FUSED["adamw"])
    assert len(taken) > 10
    assert all(taken)
    for mine, theirs in zip(folded, trained(without(policy), FUSED["adamw"])[0], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


def start(policy: Policy, build: Callable[..., Any] = FUSED["sgd"]) -> tuple[nn.Module, Any, Clipper]:
    model = network()
    optimizer = build(model.parameters())
    backward(model, 0).backward()  # type: ignore[no-untyped-call]
    return model, optimizer, Clipper(model.named_parameters(), policy, optimizer=optimizer)


def test_clip_leaves_the_gradients_to_the_step_and_only_to_the_next_one() -> None:
    model, optimizer, clipper = start(ClipByNorm(max=0.01, fold="auto"))
    before, weights = gradients(model), [p.detach().clone() for p in model.parameters()]
    report = clipper.clip()
    assert all(torch.equal(one, other) for one, other in zip(before, gradients(model), strict=True))
    assert report.before.item() == pytest.approx(exact_norm(before), rel=1e-6)
    assert report.after.item() == pytest.approx(0.01, rel=1e-6)
    optimizer.step()
    assert exact_norm(gradients(model)) == pytest.approx(0.01, rel=1e-6)  # the kernel stores what it used
    moved = [old - p.detach() for old, p in zip(weights, model.parameters(), strict=True)]
    assert exact_norm(moved) == pytest.approx(0.05 * 0.01, rel=1e-5)
    clipper.check()
    assert getattr(optimizer, "grad_scale", None) is None
    for parameter, gradient in zip(model.parameters(), before, strict=True):
        parameter.grad = gradient.clone()
    optimizer.step()  # nobody clipped
    assert exact_norm(gradients(model)) == pytest.approx(exact_norm(before), rel=1e-6)


def test_check_multiplies_by_what_the_optimizer_will_use() -> None:
    _, optimizer, clipper = start(ClipByNorm(max=0.01, fold="auto"))
    clipper.clip()
    clipper.check()
    optimizer.grad_scale = optimizer.grad_scale * 0.5
    with pytest.raises(ClipCheckError, match="at the optimizer's door"):
        clipper.check()
    optimizer.grad_scale = None
    with pytest.raises(ClipCheckError, match="at the optimizer's door"):
        clipper.check()


def test_a_step_left_out_leaves_nothing_behind() -> None:
    model, optimizer, clipper = start(ClipByNorm(max=0.01, nonfinite="drop", fold="auto"))
    clipper.clip()  # and no step
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, math.nan)
    assert clipper.clip().dropped
    assert getattr(optimizer, "grad_scale", None) is None
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-6)
    clipper.clip()  # nothing exceeds
    assert getattr(optimizer, "grad_scale", None) is None


def test_a_scale_that_no_step_has_used_ends_the_folding(caplog: pytest.LogCaptureFixture) -> None:
    """Such as after another optimizer took over: one step is unclipped, and it is said."""
    model, _, clipper = start(ClipByNorm(max=0.01, fold="auto"))
    other = FUSED["adamw"](model.parameters())
    for number in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        clipper.clip()
        clipper.check()
        other.step()
        assert (exact_norm(gradients(model)) == pytest.approx(0.01, rel=1e-6)) == (number > 0)
    (warning,) = [record.message for record in caplog.records]
    assert warning.endswith("no step of the optimizer that the Clipper was given has used the last scale")


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda parts: pickle.loads(pickle.dumps(parts))], ids=["copy", "pickle"]
)
def test_a_copy_hands_over_to_the_copied_optimizer_and_no_longer_than_a_step(again: Callable[..., Any]) -> None:
    model, optimizer, clipper = again(start(ClipByNorm(max=0.01, fold="auto")))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    clipper.clip()
    optimizer.step()
    assert exact_norm(gradients(model)) == pytest.approx(0.01, rel=1e-6)
    assert getattr(optimizer, "grad_scale", None) is None


def test_where_nobody_looks_at_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an accelerator: the scale is handed over at every step, 1 where nothing exceeds."""
    real = Parameters.__init__

    def unseen(self: Parameters, named: Any) -> None:
        real(self, named)
        self.may_look = False

    plain, _ = trained(without(FOLDING[0]), FUSED["adamw"])
    monkeypatch.setattr(Parameters, "__init__", unseen)
    folded, _ = trained(FOLDING[0], FUSED["adamw"])
    for mine, theirs in zip(folded, plain, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


def unclipped(model: nn.Module) -> Any:
    return torch.optim.SGD([*model.parameters(), nn.Parameter(torch.zeros(2))], lr=0.1, fused=True)


REFUSED: dict[str, tuple[Policy, Callable[[nn.Module], Any], str]] = {
    "value": (ClipByValue(max=0.01, fold="auto"), lambda m: FUSED["sgd"](m.parameters()), "clip=value has no scale"),
    "scope": (ClipByNorm(max=0.01, scope="layer", fold="auto"), lambda m: FUSED["sgd"](m.parameters()), "scope=model"),
    "some": (ClipByNorm(max=0.01, include=["0.*"], fold="auto"), lambda m: FUSED["sgd"](m.parameters()), "include"),
    "plain": (FOLDING[0], lambda m: torch.optim.SGD(m.parameters(), lr=0.1), "fused=True"),
    "none": (FOLDING[0], lambda m: None, "fused=True"),
    "others": (FOLDING[0], unclipped, "other parameters than the Clipper"),
    "double": (FOLDING[0], lambda m: FUSED["sgd"](m.double().parameters()), "not float32"),
    "strides": (FOLDING[0], lambda m: FUSED["sgd"](m.parameters()), "lies otherwise in memory"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_where_folding_would_be_wrong_clip_multiplies_and_says_why(case: str, caplog: pytest.LogCaptureFixture) -> None:
    policy, build, why = REFUSED[case]
    model = network()
    optimizer = build(model)
    with caplog.at_level(logging.WARNING):
        clipper = Clipper(model.named_parameters(), policy, optimizer=optimizer)
        for _ in range(2):
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
                if case == "strides" and parameter.dim() == 2:
                    parameter.grad = torch.ones(parameter.shape[::-1]).t()
            report = clipper.clip()
            clipper.check()
            assert exact_norm(gradients(model)) == pytest.approx(report.after.item(), rel=1e-6)
            assert report.after < report.before
    (warning,) = [record.message for record in caplog.records]
    assert warning.startswith("clip.fold=auto: clip() multiplies the gradients itself, since ")
    assert why in warning


def test_nothing_folds_in_a_chain() -> None:
    with pytest.raises(InvalidField, match="nothing folds in it"):
        Chain(links={"all": ClipByNorm(max=1.0, fold="auto")})


def test_a_run_that_folds_is_the_run_that_does_not(tmp_path: Path, taken: list[bool]) -> None:
    losses = []
    for fold in ("never", "auto"):
        (tmp_path / fold).mkdir()
        train(tmp_path / fold, "clip=norm", "clip.max=0.05", f"clip.fold={fold}", "steps=30",
                       "evaluate_every=30", "check_every=1", "optimizer=sgd", "optimizer.lr=0.5")  # fmt: skip
        losses.append(json.loads((tmp_path / fold / "run" / "status.json").read_text())["objective"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert len(taken) > 5
    assert all(taken)
