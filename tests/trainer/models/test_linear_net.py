"""The smallest network: initially y = x, with a layer that has no gradients."""

import signal
from pathlib import Path

import pytest
import torch

from tests.trainer.options import option, require_options
from tests.trainer.resumption import LINE, config_for, end_at_steps, run_until_finished
from tests.trainer.support import compose, inspect_output, table_rows, warnings_of_run
from trainer import loop, models
from trainer.run import execute_in_folder
from trainer.state import build


@pytest.fixture(autouse=True)
def _points() -> None:
    require_options("data=line")


def test_the_model_is_initially_the_identity_and_has_a_layer_without_gradients() -> None:
    net = models.build(option("model", "linear_net"), inputs=1, outputs=1, kind="points")
    inputs = torch.tensor([[-2.0], [3.0]])
    outputs, _ = net(inputs, None)
    assert torch.equal(outputs, inputs)
    outputs.sum().backward()
    assert (net.linear.weight.grad.item(), net.linear.bias.grad.item()) == (1.0, 2.0)
    assert all(parameter.grad is None for parameter in net.linear2.parameters())


def test_clipping_keeps_a_layer_without_gradients() -> None:
    state = build(compose("model=linear_net", "data=line", "log.progress=false"))
    model = state.model
    assert {name: p.grad for name, p in model.named_parameters()} == dict.fromkeys(
        ["linear.weight", "linear.bias", "linear2.weight", "linear2.bias"]
    )  # before backward, gradients are None
    assert [tuple(p.shape) for p in model.parameters()] == [(1, 1), (1,), (1, 1), (1,)]  # parameters() gives no names
    assert (model.linear.weight.item(), model.linear.bias.item()) == (1.0, 0.0)
    loop.forward_backward(state, next(state.data.batches(0)))
    report = state.clipper.clip()
    assert model.linear2.weight.grad is None
    assert report.by_parameter()["linear2.weight"] == (0.0, 0.0)
    assert report.before.item() > 0


def test_an_inspection_marks_unused_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    text = inspect_output(capsys, "model=linear_net data=line")
    found = table_rows(text)
    assert list(found) == ["linear.weight", "linear.bias", "linear2.weight", "linear2.bias"]
    assert found["linear.weight"][:3] == ["1x1", "1", "None"]
    assert found["linear.bias"][-1] == "None"  # no ratio to a weight of 0
    for name in ("linear2.weight", "linear2.bias"):
        assert found[name][2:] == ["None", "None", "None", "None", "never", "used"]
    assert "never used: backward left None" in text
    assert "named_parameters() gives each parameter with its name" in text


def test_a_short_run_warns_at_its_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (line,) = warnings_of_run(tmp_path, caplog, compose("model=linear_net", "data=line", "optimizer.lr=0.1", "steps=2"))
    assert "linear2.weight, linear2.bias had no gradient at any of 2 checks up to step 2" in line


def test_a_resumed_run_does_not_repeat_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """That of a layer without gradients is logged at the third check, and would be due at every later one."""
    config = config_for(tmp_path, (*LINE, "evaluate_every=1", "clip=none"))
    execute_in_folder(config, tmp_path / "uninterrupted")
    logged = [line for line in caplog.messages if line.startswith("warning: ")]
    assert any("never used: linear2" in line for line in logged)
    caplog.clear()
    end_at_steps(monkeypatch, {1: signal.SIGTERM, 5: signal.SIGTERM})
    run_until_finished(config, tmp_path / "resumed")
    assert [line for line in caplog.messages if line.startswith("warning: ")] == logged
