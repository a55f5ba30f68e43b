"""The loop: order of a step, gradients at the optimizer, hidden state, micro-batches, divergence, reproducibility."""

import itertools
import json
import math
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradclip import Clipper
from runner.runs.run import Diverged
from tests.gradclip.support import as_on_an_accelerator
from tests.support import exact_norm
from tests.trainer.options import option_names, require_options, require_precision
from tests.trainer.support import SMALL, compose, small_config, text_file, train_small
from trainer import loop
from trainer.config import Divergence
from trainer.data import Batch
from trainer.evaluate import evaluate
from trainer.history import History
from trainer.monitor.divergence import DivergenceDetector
from trainer.monitor.first_steps import FirstSteps
from trainer.monitor.update_norm import snapshot
from trainer.run import execute_in_folder
from trainer.state import TrainState, build


def build_small(folder: Path, *overrides: str) -> TrainState:
    return build(small_config(folder, *overrides))


def status(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run" / "status.json").read_text())
    return found


# -- the order


def test_every_step_is_zero_grad_backward_clip_check_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def spy(owner: type, name: str) -> None:
        real = getattr(owner, name)

        def called(*arguments: Any, **named: Any) -> Any:
            calls.append(name)
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, called)

    for owner, name in ((torch.optim.SGD, "zero_grad"), (Tensor, "backward"), (Clipper, "clip"), (Clipper, "check"),
                        (torch.optim.SGD, "step")):  # fmt: skip
        spy(owner, name)
    train_small(tmp_path, "steps=2", "check_every=1")
    cost = ["clip"] * 5  # at the end: what clipping costs, where no step was limited
    assert calls == ["zero_grad", "backward", "clip", "check", "step"] * 2 + cost


@pytest.mark.parametrize(
    ("clip", "limit", "p"),
    [("clip=norm clip.max=0.01", 0.01, 2.0), ("clip=norm clip.max=0.01 clip.norm_type=1", 0.01, 1.0),
     ("clip=value clip.max=1e-4", 1e-4, math.inf)],
)  # fmt: skip
def test_the_optimizer_is_given_clipped_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: str, limit: float, p: float
) -> None:
    """The norm is measured right before the optimizer's step, independently of gradclip."""
    seen: list[float] = []
    real = torch.optim.SGD.step

    def step(self: torch.optim.SGD, *arguments: Any) -> Any:
        seen.append(exact_norm([q.grad for group in self.param_groups for q in group["params"]], p))
        return real(self, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    train_small(tmp_path, *clip.split())
    assert len(seen) == 6
    assert seen == pytest.approx([limit] * 6, rel=1e-5)  # all of these steps exceed it


def test_check_runs_at_the_first_step_every_check_every_steps_and_at_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    clips: list[int] = []
    real = Clipper.clip
    monkeypatch.setattr(Clipper, "clip", lambda self: (clips.append(1), real(self))[1])
    monkeypatch.setattr(Clipper, "check", lambda self: steps.append(len(clips)))
    train_small(tmp_path, "steps=9", "check_every=4")
    assert steps == [1, 4, 8, 9]


def test_gradients_changed_between_clip_and_step_raise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Clipper.clip

    def clip(self: Clipper) -> Any:
        report = real(self)
        for parameter in self._parameters.read().parameters:
            parameter.grad *= 3
        return report

    monkeypatch.setattr(Clipper, "clip", clip)
    with pytest.raises(RuntimeError, match="before the optimizer's step"):
        train_small(tmp_path)
    assert status(tmp_path)["state"] == "failed"


@pytest.mark.parametrize("check", [True, False])
def test_a_fused_step_is_correct_for_a_gradient_with_other_strides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: bool
) -> None:
    """Also at steps without a check of the clipped gradients."""
    real = loop.forward_backward

    require_options("optimizer=adam")

    def with_other_strides(state: TrainState, batch: Batch) -> Tensor:
        loss = real(state, batch)
        weight = state.model.output.weight
        weight.grad = weight.grad.t().contiguous().t()
        return loss

    monkeypatch.setattr(loop, "forward_backward", with_other_strides)
    weights = []
    for fused in ("true", "false"):
        state = build_small(tmp_path, "optimizer=adam", "optimizer.lr=0.1", f"optimizer.fused={fused}")
        assert bool(state.optimizer.param_groups[0]["fused"]) is (fused == "true")
        batches = state.data.batches(0)
        for _ in range(2):
            loop.take_step(state, next(batches), check=check)
        weights.append(state.model.output.weight.detach())
    torch.testing.assert_close(*weights)


def test_the_weights_are_copied_only_for_logged_updates_and_freed_before_the_next_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.snapshot
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    steps: list[int] = []

    def snapshot(model: nn.Module) -> list[Tensor]:
        assert not list(alive), "the copy of an earlier step still exists"
        steps.append(1)
        copies = real(model)
        alive.update(copies)
        return copies

    monkeypatch.setattr(loop, "snapshot", snapshot)
    assert train_small(tmp_path, "log.parameters_every=1").code == 0
    assert len(steps) == 6
    steps.clear()
    (tmp_path / "seldom").mkdir()
    assert train_small(tmp_path / "seldom", "log.parameters_every=100").code == 0
    assert len(steps) == 2  # the first step, and the last one


# -- truncated back-propagation through time


def test_the_hidden_state_is_carried_detached_from_the_graph(tmp_path: Path) -> None:
    state = build_small(tmp_path)
    seen: list[tuple[Any, Any]] = []
    state.model.register_forward_hook(lambda module, inputs, result: seen.append((inputs[1], result[1])))
    batches = state.data.batches(0)
    for _ in range(3):
        loop.forward_backward(state, next(batches))
    assert seen[0][0] is None
    for (_, returned), (taken, _) in itertools.pairwise(seen):
        assert torch.equal(returned, taken)  # the values are carried
        assert taken.grad_fn is None  # the graph is not


def test_the_hidden_state_is_reset_at_the_start_of_each_epoch(tmp_path: Path) -> None:
    state = build_small(tmp_path)
    given: list[Any] = []
    state.model.register_forward_hook(lambda module, arguments, result: given.append(arguments[1]))
    windows = math.ceil((state.data._training.shape[1] - 1) / 16)
    batches = state.data.batches(0)
    for _ in range(2 * windows + 1):
        loop.forward_backward(state, next(batches))
    assert [step for step, state in enumerate(given) if state is None] == [0, windows, 2 * windows]


def test_evaluation_in_windows_gives_the_loss_of_one_window(tmp_path: Path) -> None:
    """The hidden state is carried between windows of 16, as within a single window over the text."""
    by_windows = evaluate(build_small(tmp_path, "data.window=16"))
    longest = build_small(tmp_path).data._training.shape[1] - 1
    at_once = evaluate(build_small(tmp_path, f"data.window={longest}"))
    assert by_windows[0] == pytest.approx(at_once[0], rel=1e-6)
    assert by_windows[1] == pytest.approx(at_once[1], rel=1e-6)


# -- micro-batches


@pytest.mark.parametrize("parts", [2, 3, 4])
@pytest.mark.parametrize("model", [name for name in ("rnn", "lstm") if name in option_names("model")])
def test_gradients_of_micro_batches_sum_to_those_of_the_batch(tmp_path: Path, parts: int, model: str) -> None:
    unsplit, split = (build_small(tmp_path, f"model={model}", f"micro_batches={n}") for n in (1, parts))
    batches = unsplit.data.batches(0)
    for _ in range(3):  # more than one, since the hidden state of each micro-batch is carried too
        batch = next(batches)
        losses = []
        for state in (unsplit, split):
            state.optimizer.zero_grad()
            losses.append(loop.forward_backward(state, batch).item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        for one, other in zip(unsplit.model.parameters(), split.model.parameters(), strict=True):
            assert one.grad is not None
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)


def test_micro_batches_are_clipped_once_after_their_sum(tmp_path: Path) -> None:
    ends = []
    for parts in (1, 4):
        folder = tmp_path / str(parts)
        folder.mkdir()
        train_small(folder, "clip.max=0.05", f"micro_batches={parts}")
        ends.append(status(folder)["objective"])
    assert ends[0] == pytest.approx(ends[1], rel=1e-4)


@pytest.mark.parametrize("overrides", [["data=digits", "model=mlp"], ["data=text", "data.window=16"]], ids=" ".join)
def test_evaluation_in_micro_batches_gives_the_same_result(tmp_path: Path, overrides: list[str]) -> None:
    """The loss equals that of unsplit batches: the hidden state of each micro-batch is carried between windows."""
    require_options(*overrides)
    results, rows = [], []
    for count in (1, 4):
        config = compose(*overrides, f"micro_batches={count}", "data.batch_size=6")
        if config.data.name == "text":
            config.data.path = text_file(tmp_path)
        state = build(config)
        seen: list[int] = []
        state.model.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(len(inputs[0])))
        results.append(evaluate(state))
        rows.append(max(seen))
    assert rows == [6, 2]
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-5)


# -- divergence


def step_of_divergence(values: list[float], factor: float | None = 2.0, smoothing: float = 0.9) -> int | None:
    """The step of a sequence of losses at which the detector raises Diverged, or None."""
    detector = DivergenceDetector(Divergence(factor=factor, smoothing=smoothing))
    for step, loss in enumerate(values, start=1):
        try:
            detector.update(step, loss)
        except Diverged:
            return step
    return None


def test_the_default_divergence_rule() -> None:
    assert compose().divergence == Divergence(factor=2.0, smoothing=0.9)


def test_the_detector_finds_non_finite_and_rising_losses() -> None:
    assert step_of_divergence([4.0, 3.0, math.nan]) == 3
    assert step_of_divergence([4.0, math.inf]) == 2
    assert step_of_divergence([4.0] * 50) is None
    assert step_of_divergence([4.0, 3.9, 30.0, 3.0, 3.0, 3.0]) is None  # a single bad step does not count
    assert step_of_divergence([4.0] + [9.0] * 50) == step_of_divergence([8.0] + [18.0] * 50)
    assert step_of_divergence([4.0] + [7.9] * 200) is None
    assert step_of_divergence([4.0, 8.5], smoothing=0.0) == 2
    assert step_of_divergence([4.0] + [1e30] * 50, factor=None) is None
    assert step_of_divergence([-1.0] * 50) is None
    assert step_of_divergence([-1.0] + [0.5] * 50) is not None
    assert step_of_divergence([0.0] + [1e-9] * 50) is None


@pytest.mark.parametrize("mode", ["error", "drop", "zero"])
def test_a_non_finite_weight_ends_the_run_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """The loss and the gradients are non-finite too, but only as a result, so that no mode can keep the run going."""
    real = loop.forward_backward

    def with_nonfinite_values(state: TrainState, batch: Batch) -> Tensor:
        if state.step == 2:
            state.model.output.bias.data[0] = math.nan
        return real(state, batch)

    monkeypatch.setattr(loop, "forward_backward", with_nonfinite_values)
    assert train_small(tmp_path, f"clip.nonfinite={mode}", "log.parameters_every=1").code == 3
    assert status(tmp_path)["reason"] == "non-finite weight in output.bias, seen at step 3"


def test_a_non_finite_gradient_ends_the_run_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = loop.forward_backward

    def with_nonfinite_values(state: TrainState, batch: Batch) -> Tensor:
        loss = real(state, batch)
        state.model.output.bias.grad[0] = math.nan
        return loss

    monkeypatch.setattr(loop, "forward_backward", with_nonfinite_values)
    assert train_small(tmp_path).code == 3
    assert status(tmp_path)["reason"] == "non-finite gradient in output.bias, seen at step 1"


def test_a_deferred_non_finite_gradient_ends_the_run_before_the_next_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an accelerator, gradients are not read at every step but at the next log, evaluation or checkpoint."""
    real, steps = loop.forward_backward, []

    def with_nonfinite_values(state: TrainState, batch: Batch) -> Tensor:
        loss = real(state, batch)
        steps.append(1)
        if len(steps) == 7:
            state.model.output.bias.grad[0] = math.nan
        return loss

    monkeypatch.setattr(loop, "forward_backward", with_nonfinite_values)
    as_on_an_accelerator(monkeypatch)
    outcome = train_small(tmp_path, "steps=30", "log.every=20", "checkpoint.every=5", "evaluate_every=30")
    assert (outcome.state, outcome.code) == ("diverged", 3)
    assert status(tmp_path)["reason"] == "non-finite gradient in output.bias at step 7, seen at step 10"
    (kept,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert kept.name == "step_5.pt"


def test_no_float64_is_used_on_a_device_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as Apple's GPUs: a dispatch mode fails at any float64 tensor, and norms are measured in float32."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class No64(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            assert not (isinstance(result, Tensor) and result.dtype == torch.float64), func
            return result

    modules = ("norms", "gradients", "scopes", "policy_runner")
    for module in (*(f"gradclip.{name}" for name in modules), "trainer.evaluate"):
        monkeypatch.setattr(f"{module}.wide_dtype", lambda device: torch.float32)
    as_on_an_accelerator(monkeypatch)
    for clip in (["clip=norm", "clip.max=0.01"], ["clip=value", "clip.max=0.01"], ["clip=none"]):
        state = build_small(tmp_path, *clip)
        first_steps, weights = FirstSteps(state.model, 1), snapshot(state.model)
        with No64():
            loop.take_step(state, next(state.data.batches(0)), check=True, on_backward=first_steps.before_clipping)
            first_steps.after_step(1, weights)
            evaluate(state)


def test_a_dropped_step_restores_the_hidden_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = build_small(tmp_path, "clip.nonfinite=drop")
    batches = state.data.batches(0)
    loop.take_step(state, next(batches), check=True)
    before = state.hidden[0].clone()
    real = loop.forward_backward

    def with_nonfinite_values(state: TrainState, batch: Batch) -> Tensor:
        loss = real(state, batch)
        state.hidden[0].fill_(math.nan)
        state.model.output.bias.grad[0] = math.nan
        return loss * math.nan

    monkeypatch.setattr(loop, "forward_backward", with_nonfinite_values)
    assert loop.take_step(state, next(batches), check=True)[1].dropped
    assert torch.equal(state.hidden[0], before)


def test_a_dropped_step_does_not_change_the_weights_and_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, weights = loop.forward_backward, []

    def with_nonfinite_values(state: TrainState, batch: Batch) -> Tensor:
        weights.append(state.model.output.bias.detach().clone())
        loss = real(state, batch)
        if len(weights) == 3:
            state.model.output.bias.grad[0] = math.inf
        return loss

    monkeypatch.setattr(loop, "forward_backward", with_nonfinite_values)
    assert train_small(tmp_path, "clip.nonfinite=drop").code == 0
    assert torch.equal(weights[2], weights[3])
    assert not torch.equal(weights[3], weights[4])


def test_the_summary_says_when_every_step_was_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert train_small(tmp_path, "clip=drop", "clip.max=1e-9", "divergence.factor=null").code == 0
    steps = json.loads((tmp_path / "run" / "status.json").read_text())["steps"]
    assert f"{steps} of {steps} steps: the weights never changed" in caplog.text
    assert "only non-finite values end the run (divergence.factor=null)" in caplog.text


# -- precision


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("model", ["rnn", "lstm", "mlp"])
def test_mixed_precision_clips_unscaled_gradients(tmp_path: Path, precision: str, model: str) -> None:
    more = [f"model={model}", *(["data=digits", "model.hidden=[8]"] if model == "mlp" else SMALL[:4])]
    require_options(*more)
    require_precision([*more, f"device.precision={precision}"])
    config = compose(*more, "data.batch_size=4", "clip.nonfinite=drop", "optimizer.lr=0.1", "check_every=1",
                     "clip.max=0.5", f"device.precision={precision}", "steps=12", "log.progress=false")  # fmt: skip
    if model != "mlp":
        config.data.path, config.data.sample = text_file(tmp_path), 0
    assert execute_in_folder(config, tmp_path / "run").code == 0


# -- reproducibility


@pytest.mark.parametrize("overrides", [["seed=0"], ["model.layers=2", "model.dropout=0.5"], ["optimizer=adam"]])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(tmp_path: Path, overrides: list[str]) -> None:
    require_options(*overrides)
    weights = []
    for name in ("one", "other"):
        folder = tmp_path / name
        folder.mkdir()
        train_small(folder, *overrides)
        weights.append(torch.load(folder / "run" / "checkpoints" / "step_6.pt", weights_only=True)["model"])
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_different_seeds_give_different_weights(tmp_path: Path) -> None:
    def first(seed: int) -> Tensor:
        model: Any = build_small(tmp_path, f"seed={seed}").model
        weight: Tensor = model.output.weight
        return weight

    assert not torch.equal(first(0), first(1))
    assert torch.equal(first(0), first(0))


# -- overfitting, anomaly detection and history


def test_one_batch_can_be_overfitted(tmp_path: Path) -> None:
    require_options("optimizer=adam")
    config = small_config(
        tmp_path, "debug=overfit", "model.hidden=32", "optimizer=adam", "optimizer.lr=0.02", "steps=150"
    )
    assert execute_in_folder(config, tmp_path / "run").code == 0
    state = build(config)
    content = torch.load(tmp_path / "run" / "checkpoints" / "step_150.pt", weights_only=True)
    state.model.load_state_dict(content["model"])
    batch = next(state.data.batches(0))
    with torch.no_grad():
        assert state.data.loss(state.model(batch.inputs)[0], batch.targets).item() < 0.05


def test_anomaly_detection_is_enabled_during_the_run_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    real = loop.forward_backward
    monkeypatch.setattr(loop, "forward_backward", lambda *a: (seen.append(torch.is_anomaly_enabled()), real(*a))[1])
    train_small(tmp_path, "debug=anomaly")
    assert seen == [True] * 6
    assert not torch.is_anomaly_enabled()


def test_the_history_keeps_the_lowest_validation_loss() -> None:
    history = History()
    assert [history.add_evaluation(step, loss) for step, loss in enumerate([3.0, math.nan, 2.0, 2.5, 2.0])] == [
        True, False, True, False, False]  # fmt: skip
    assert (history.best, history.best_step) == (2.0, 2)
