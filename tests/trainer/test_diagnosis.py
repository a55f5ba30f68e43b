"""The marks of parameters whose gradients have a problem, and one warning of each kind in a run's log."""

import json
import math
from pathlib import Path

import pytest
import torch

from tests.trainer.options import require_options
from tests.trainer.support import compose, train_small, warnings, warnings_of_run
from trainer.monitor.diagnosis import GradientMonitor
from trainer.monitor.marks import ParameterChecks, ParameterNorms, exploding, measure, weight_norms

LIMITS = compose().diagnosis  # explode 10, patience 3, update_max 0.1, update_min 1e-5
RESOLUTION = 2.0**-23  # of float32


def norms_of(**parameters: tuple[float, float | None]) -> dict[str, ParameterNorms]:
    """The norms of 4x4 matrices by name, each given as the norms of the weight and of the gradient."""
    return {name: ParameterNorms((4, 4), weight, gradient) for name, (weight, gradient) in parameters.items()}


def marks_after(*checks: dict[str, ParameterNorms]) -> dict[str, str]:
    """The marks after the last of these checks."""
    record = ParameterChecks(LIMITS)
    return [record.add(check) for check in checks][-1]


# -- the marks


def test_each_problem_of_a_gradient_has_its_mark() -> None:
    found = norms_of(healthy=(2.0, 0.5), big=(2.0, 21.0), edge=(2.0, 20.0), none=(2.0, None), zero=(2.0, 0.0),
               nan=(2.0, math.nan), small=(2.0, 2.1 * RESOLUTION), gone=(2.0, 2.0 * RESOLUTION))  # fmt: skip
    assert marks_after(found) == {
        "big": "exploding", "none": "never used", "zero": "vanishing", "nan": "non-finite",
        "gone": "vanishing"}  # fmt: skip
    net = torch.nn.Linear(3, 2)
    net.bias.requires_grad_(False)
    net(torch.ones(1, 3)).sum().backward()
    frozen = measure(net, weight_norms(net), {"weight": 2.5, "bias": 0.0})
    assert frozen["bias"] == ParameterNorms((2,), pytest.approx(net.bias.norm().item()), None, frozen=True)
    assert frozen["weight"] == ParameterNorms((2, 3), pytest.approx(net.weight.norm().item()), 2.5, frozen=False)
    assert frozen["weight"].resolution == RESOLUTION
    assert measure(net.double(), weight_norms(net), {"weight": 2.5, "bias": 0.0})["weight"].resolution == 2.0**-52
    frozen = {"rest": ParameterNorms((4, 4), 2.0, None, frozen=True), "healthy": ParameterNorms((4, 4), 2.0, 1.0)}
    assert marks_after(frozen) == {"rest": "frozen"}


def test_a_gradient_vanishes_only_if_it_has_been_too_small_at_every_check() -> None:
    """Later in a run, small gradients everywhere are a sign of convergence."""
    small, large = norms_of(one=(2.0, 1e-8), two=(2.0, 0.0)), norms_of(one=(2.0, 1.0), two=(2.0, 1.0))
    assert marks_after(small, small) == {"one": "vanishing", "two": "vanishing"}
    assert marks_after(small, large, *[norms_of(one=(2.0, 1e-8), two=(2.0, 1e-8))] * 4) == {}
    assert marks_after({"bias": ParameterNorms((4,), 1.0, 0.0)}) == {}, "a bias before a normalization has none"


def test_a_parameter_is_dead_after_exact_zeros_in_a_row() -> None:
    alive, dead = norms_of(a=(2.0, 1.0), b=(2.0, 1e-3)), norms_of(a=(2.0, 0.0), b=(2.0, 1e-3))
    assert marks_after(alive, dead, dead) == {}
    assert marks_after(alive, dead, dead, dead) == {"a": "dead"}
    assert marks_after(alive, dead, dead, alive, dead) == {}
    for shape in ((4,), (1, 1)):
        first, *later = [{**check, "a": check["a"]._replace(shape=shape)} for check in (alive, dead, dead, dead)]
        assert marks_after(first, *later) == {}, "the gradient of a bias can be 0 by chance"
    assert marks_after(dead, dead, dead, dead)["a"] == "vanishing", "it never had a gradient that was not 0"
    missing = norms_of(a=(2.0, None), b=(2.0, 1.0))
    assert marks_after(alive, missing, missing, missing) == {}, "some batches do not use it"
    assert marks_after(alive, dead, missing, dead, missing, dead) == {}, "not three checks in a row"
    infinite = norms_of(a=(2.0, math.inf), b=(2.0, 1.0))
    assert marks_after(infinite, dead, dead, dead) == {}, "it never had a finite one that was not 0"
    for rest in (0.0, 1e-6):  # of rounding
        fitted = norms_of(a=(2.0, 0.0), b=(2.0, rest))
        assert marks_after(norms_of(a=(2.0, 1.0), b=(2.0, 1.0)), fitted, fitted, fitted) == {}, "it has converged"


def test_a_parameter_that_was_used_once_is_not_never_used() -> None:
    used, unused = norms_of(a=(2.0, 1.0)), norms_of(a=(2.0, None))
    assert marks_after(unused, unused, unused, unused) == {"a": "never used"}
    assert marks_after(unused, used, unused) == {}


def test_a_record_of_checks_is_restored() -> None:
    alive, dead = norms_of(a=(2.0, 1.0), b=(2.0, 1.0)), norms_of(a=(2.0, 0.0), b=(2.0, 1.0))
    first, second = ParameterChecks(LIMITS), ParameterChecks(LIMITS)
    for check in (alive, dead, dead):
        first.add(check)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.state_dict() == first.state_dict()
    assert second.add(dead) == {"a": "dead"}


def test_a_zero_initialized_weight_does_not_explode_and_a_bias_does_not_vanish() -> None:
    found = {
        "w": ParameterNorms((4, 4), 2.0, 1.0),
        "start": ParameterNorms((4, 4), 0.0, 3.0),
        "bias": ParameterNorms((4,), 0.0, 1e-9),
    }
    assert marks_after(found) == {}
    found["start"] = ParameterNorms((4, 4), 0.0, 30.0)  # compared with the average size of all weights
    assert marks_after(found) == {"start": "exploding"}
    assert exploding(found, math.inf) == []


# -- the monitor


class Report:
    """The part of a ClipReport that the monitor reads."""

    def by_parameter(self) -> dict[str, tuple[float, float]]:
        return {"small": (1.0, 1.0), "large": (9.0, 9.0)}


def check(
    monitor: GradientMonitor, step: int, found: dict[str, ParameterNorms], last: bool = False, scale: float = 1.0
) -> None:
    """Has the monitor check gradients that clipping has multiplied by a scale."""
    monitor.check_parameters(
        step, found, {name: (norms.gradient or 0.0) * scale for name, norms in found.items()}, last=last
    )


def first_warning(norms: list[float], clip: str = "clip=none", rises: float = 1.0) -> int | None:
    """The step of a sequence of norms at which the monitor warns, or None. rises: by how much the loss rises a step."""
    monitor = GradientMonitor(compose(clip))
    for step, norm in enumerate(norms, start=1):
        monitor.update(step, 5.0 + rises * step, norm, Report())
        if monitor._warned:
            return step
    return None


def test_an_explosion_is_a_jump_above_the_usual_norm_with_a_rising_loss(caplog: pytest.LogCaptureFixture) -> None:
    assert first_warning([1.0] * 20 + [9.9]) is None
    assert first_warning([1.0] * 20 + [10.1]) == 21
    assert first_warning([3.0**step for step in range(30)]) == 4  # 27 against a mean that lags behind
    assert first_warning([1.01**step for step in range(500)]) is None  # slow growth is not an explosion
    assert first_warning([1.0] + [1e-6] * 200 + [1e-2]) is None  # a spike of a model that has converged
    after_plateau = [1e-6, 1e-5, 1e-2, *[1.0] * 20, 9.0]
    assert first_warning(after_plateau) == 3
    assert first_warning(after_plateau, rises=-0.01) is None  # leaves a plateau, so that the loss falls
    assert first_warning([1.0] * 20 + [11.0], rises=0.0) is None
    assert first_warning([0.0, 1.0, math.inf, math.nan, 1.0]) is None  # non-finite norms end a run anyway
    line = warnings(caplog)[-1]
    for part in ("gradients explode: at step", "times the usual one", "the largest in large", "try clip=norm"):
        assert part in line
    assert len(line.splitlines()) == 1
    assert "after clipping" not in line, "clip=none clips nothing"
    caplog.clear()
    first_warning([1.0, 20.0], "clip=value")
    assert "a lower limit than that of clip=value" in warnings(caplog)[0]
    assert "the norm after clipping is 20, " in warnings(caplog)[0]


def test_each_kind_of_problem_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    monitor = GradientMonitor(compose("clip=none"))
    for step in range(1, 6):
        monitor.update(step, float(step), 100.0**step, Report())
        dead = 1.0 if step == 1 else 0.0
        check(monitor, step, norms_of(a=(1.0, 1.0), b=(1.0, 1e-9), c=(1.0, None), d=(1.0, 50.0), e=(1.0, dead)))
        monitor.check_update(step, 0.2, 1.0)
    first = [line.removeprefix("warning: ").split(":")[0] for line in warnings(caplog)]
    assert sorted(first) == ["dead parameters", "gradients explode", "gradients vanish", "large updates", "never used"]
    assert all("step " in line for line in warnings(caplog))


def test_explosions_are_judged_after_clipping_and_vanishing_before(caplog: pytest.LogCaptureFixture) -> None:
    monitor = GradientMonitor(compose())
    check(monitor, 1, norms_of(a=(1.0, 50.0), b=(1.0, 1.0)), scale=1e-9)
    check(monitor, 2, norms_of(a=(1.0, 50.0), b=(1.0, 1.0)), scale=0.5)
    assert warnings(caplog) == [], "one step may have corrected it"
    check(monitor, 3, norms_of(a=(1.0, 1.0), b=(1.0, 50.0)), scale=0.5)
    check(monitor, 4, norms_of(a=(1.0, 1.0), b=(1.0, 1.0)), scale=0.5)
    check(monitor, 5, norms_of(a=(1.0, 1.0), b=(1.0, 50.0)), scale=0.5)
    assert warnings(caplog) == [], "not in a row"
    check(monitor, 6, norms_of(a=(1.0, 1.0), b=(1.0, 50.0)), scale=0.5)
    assert "at step 6 gradients exceed 10 times the weight in b;" in warnings(caplog)[0]


def test_a_parameter_with_a_gradient_at_any_check_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    monitor = GradientMonitor(compose())
    for step in range(1, 8):
        found = norms_of(a=(1.0, 1.0), b=(1.0, 1.0 if step == 2 else None), c=(1.0, None), d=(1.0, 0.0))
        check(monitor, step, found)
        assert len(warnings(caplog)) == (2 if step >= 3 else 0)
    vanishing, unused = warnings(caplog)
    assert "gradients vanish: those of d were at most 1.2e-07 times the weight at each of 3 checks" in vanishing
    assert "never used: c had no gradient at any of 3 checks up to step 3" in unused
    caplog.clear()
    short = GradientMonitor(compose())
    check(short, 1, norms_of(a=(1.0, 1.0), b=(1.0, None), c=(1.0, 0.0)), last=True)
    (line,) = warnings(caplog)  # that gradients vanish takes three checks
    assert "never used: b" in line


def updates(*ratios: float, losses: list[float] | None = None, lr_factor: float = 1.0) -> GradientMonitor:
    """A monitor that was given updates of these sizes; the loss falls, if no losses are given."""
    monitor = GradientMonitor(compose())
    losses = [10.0 - step for step in range(1, len(ratios) + 1)] if losses is None else losses
    for step, (ratio, loss) in enumerate(zip(ratios, losses, strict=True), start=1):
        monitor.update(step, loss, 1.0, Report())
        monitor.check_update(step, ratio, lr_factor)
    return monitor


def test_large_updates_are_several_in_a_row(caplog: pytest.LogCaptureFixture) -> None:
    updates(0.2, 0.2, 0.1, 0.2, 0.2, 0.05)
    assert warnings(caplog) == []
    updates(0.2, 0.05, 0.2, 0.3, 0.4, 0.5)
    (line,) = warnings(caplog)
    assert "large updates: 3 measured in a row, up to step 5, changed the weights by more than 0.1 of" in line
    assert "(the latest: 0.4)" in line


def test_small_updates_are_all_so_far_while_the_loss_falls(caplog: pytest.LogCaptureFixture) -> None:
    updates(2e-5, *[1e-7] * 9)  # later, small updates are a sign of convergence
    updates(*[1e-7] * 9, losses=[1.0] * 9)  # nothing is to be gained
    updates(*[1e-7] * 9, lr_factor=0.49)  # what the schedule is for
    updates(1e-7, 1e-7)
    assert warnings(caplog) == []
    updates(9e-6, 9e-6, 8e-6)
    (line,) = warnings(caplog)
    assert "small updates: each of the 3 measured up to step 3 changed the weights by less than 1e-05 of" in line
    assert "(the latest: 8e-06)" in line


@pytest.mark.parametrize("count", range(1, 6))
def test_a_monitor_that_is_restored_warns_at_the_same_step(count: int, caplog: pytest.LogCaptureFixture) -> None:
    ratios = [0.2, 0.05, 0.2, 0.3, 0.4, 0.5]
    first = updates(*ratios[:count])
    monitor = GradientMonitor(compose())
    monitor.load_state_dict(first.state_dict())
    for step in range(count + 1, 7):
        monitor.update(step, 10.0 - step, 1.0, Report())
        monitor.check_update(step, ratios[step - 1], 1.0)
    (line,) = warnings(caplog)
    assert "up to step 5," in line
    assert monitor.state_dict() == updates(*ratios).state_dict()


# -- in a run


def test_a_run_without_clipping_warns_before_it_diverges(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # At this learning rate the gradients explode on the default text of every Python version.
    lines = warnings_of_run(tmp_path, caplog, compose("clip=none", "data.sample=0", "optimizer.lr=6"))
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["state"] == "diverged"
    (line,) = lines
    step = int(line.split("at step ")[1].split()[0])
    assert "gradients explode" in line
    assert step < status["step"]


@pytest.mark.parametrize(
    "overrides",
    [["steps=40", "data.sample=0"], ["experiment=digits", "steps=40"], ["model=mlp", "data=digits", "optimizer.lr=0.1",
     "clip=none", "steps=150"], ["experiment=through_time", "steps=40"], ["model=linear_net", "data=line",
     "data.slope=5", "data.intercept=0", "optimizer.lr=0.1", "steps=600", "log.every=5", "evaluate_every=20"],
     ["model=linear_net", "data=line", "data.low=-6", "data.high=6", "optimizer.lr=0.02", "clip=none", "steps=300"],
     ["experiment=depth", "optimizer.lr=0.001", "schedule.warmup=100"]],
    ids=["default", "digits", "mlp", "through_time", "converged", "corrected", "warmup"],
)  # fmt: skip
def test_a_healthy_run_logs_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture, overrides: list[str]) -> None:
    require_options(*overrides)
    lines = warnings_of_run(tmp_path, caplog, compose("evaluate_every=20", *overrides))
    unused = "warning: never used: linear2.weight, linear2.bias had no gradient"  # that of model=linear_net
    assert [line for line in lines if not line.startswith(unused)] == []
    assert bool(lines) == ("model=linear_net" in overrides)


@pytest.mark.parametrize(
    ("kind", "overrides"),
    [
        ("dead parameters", ["model=mlp", "data=digits", "clip=none", "optimizer.lr=3", "evaluate_every=20"]),
        ("large updates", ["model=mlp", "data=digits", "optimizer.lr=5", "evaluate_every=100"]),
        ("small updates", ["model=mlp", "data=digits", "optimizer.lr=1e-5", "evaluate_every=100"]),
        ("gradients vanish", ["experiment=depth", "model.gain=0.5", "evaluate_every=50"]),
    ],
)
def test_an_unhealthy_run_logs_a_warning(
    kind: str, overrides: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    require_options(*overrides)
    lines = warnings_of_run(tmp_path, caplog, compose("steps=150", *overrides))
    assert len([line for line in lines if line.startswith(f"warning: {kind}: ")]) == 1


def test_updates_at_a_low_learning_rate_do_not_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The monitor is given the schedule's factor: all steps of a warm-up longer than the run are below half."""
    small = ["model=mlp", "data=digits", "optimizer.lr=1e-5", "steps=150", "schedule.warmup=150", "evaluate_every=50"]
    require_options(*small)
    lines = warnings_of_run(tmp_path, caplog, compose(*small, "log.parameters_every=50", "diagnosis.patience=4"))
    assert lines == []


def test_dropped_steps_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    for name in ("update", "check_update", "check_parameters"):
        monkeypatch.setattr(GradientMonitor, name, lambda *given, name=name, **named: called.append(name))
    train_small(tmp_path, "steps=4", "clip=drop", "clip.max=1e-9", "evaluate_every=2")
    assert called == []


def test_an_infinite_explosion_threshold_never_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of_run(tmp_path, caplog, compose("clip=none", "data.sample=0", "diagnosis.explode=inf")) == []


def test_parameters_are_checked_at_the_first_step_and_at_evaluations_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    monkeypatch.setattr(
        GradientMonitor, "check_parameters", lambda self, step, parameters, after, last: steps.append(step)
    )
    train_small(tmp_path, "steps=9", "evaluate_every=4", "log.parameters_every=1")
    assert steps == [1, 4, 8, 9]


def test_diagnostics_do_not_change_the_weights(tmp_path: Path) -> None:
    """The weights of runs with and without diagnostics are equal bit for bit."""
    weights = []
    diagnostics = ["log.first_steps=6", "log.histograms=true", "log.gradient_norms=true"]
    for name, more in (("one", diagnostics), ("other", ["log.gradient_norms=false"])):
        (tmp_path / name).mkdir()
        train_small(tmp_path / name, "clip.max=0.3", *more)
        weights.append(torch.load(tmp_path / name / "run" / "checkpoints" / "step_6.pt", weights_only=True)["model"])
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
