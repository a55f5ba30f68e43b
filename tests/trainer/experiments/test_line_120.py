"""The experiment line_120: each step with and without clipping, and the warnings in the log."""

import logging
from pathlib import Path

import pytest

from tests.trainer.support import compose, first_steps_table, inspect_output, warnings_of_run
from trainer.monitor.diagnosis import GradientMonitor
from trainer.monitor.marks import ParameterNorms
from trainer.run import execute_in_folder

pytestmark = pytest.mark.long

SHORT = ("steps=3", "evaluate_every=1", "log.first_steps=0")


@pytest.mark.parametrize("clip", ["norm", "value", "none"])
def test_the_first_steps_match_plain_arithmetic(tmp_path: Path, caplog: pytest.LogCaptureFixture, clip: str) -> None:
    caplog.set_level(logging.INFO)
    limit = [] if clip == "none" else ["clip.max=1"]
    config = compose("experiment=line_120", f"clip={clip}", *limit, "steps=9", "log.progress=false")
    execute_in_folder(config, tmp_path / "run")
    title, header, *found = first_steps_table(caplog)
    assert " ".join(title).startswith("the first steps")
    assert header == ["step", "parameter", "weight", "gradient", "after", "clipping", "update"]
    assert [row[0] for row in found[::4]] == [str(step) for step in range(1, 9)]  # eight of the nine
    assert found[2][1:] == ["linear2.weight", found[2][2], "none", "none", "0"]
    # Mean squared error of w x + b against 4 x + 1 at the four points.
    weight, bias, points = 1.0, 0.0, (-6.0, -2.0, 2.0, 6.0)
    for step in range(8):
        errors = [(weight - 4) * x + bias - 1 for x in points]
        gradients = [sum(2 * e * x for e, x in zip(errors, points, strict=True)) / 4, sum(2 * e for e in errors) / 4]
        rounding = 1e-6 * max(abs(e) for e in errors)  # of float32, where terms of a sum cancel
        if step == 0:
            assert gradients == [-120.0, -2.0]
        norm = sum(g * g for g in gradients) ** 0.5
        after = {"none": gradients, "norm": [g * min(1, 1 / norm) for g in gradients],
                 "value": [max(-1.0, min(1.0, g)) for g in gradients]}[clip]  # fmt: skip
        for row, values in zip(found[4 * step :], zip((weight, bias), gradients, after, strict=True), strict=False):
            shown = [float(cell) for cell in row[2:]]
            assert shown == pytest.approx([*values, -0.1 * values[2]], rel=1e-4, abs=1e-4 + rounding)
        weight, bias = weight - 0.1 * after[0], bias - 0.1 * after[1]


def test_a_run_warns_of_exploding_and_missing_gradients(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = warnings_of_run(tmp_path / "1", caplog, compose("experiment=line_120", "clip=none", *SHORT))
    assert "gradients explode: at step " in lines[0]
    assert "large updates: 3 measured in a row, up to step 3" in lines[1]
    assert "never used: linear2.weight, linear2.bias had no gradient" in lines[2]
    (line,) = warnings_of_run(tmp_path / "2", caplog, compose("experiment=line_120", *SHORT))
    assert "linear2.weight" in line  # other gradients are clipped


def test_a_diagnosis_measures_the_weights_before_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the step the weight would contain the very update that the diagnosis compares with it."""
    seen: list[dict[str, ParameterNorms]] = []
    monkeypatch.setattr(
        GradientMonitor, "check_parameters", lambda self, step, parameters, after, last: seen.append(parameters)
    )
    config = compose("experiment=line_120", "clip=none", "steps=1", "log.progress=false")
    execute_in_folder(config, tmp_path / "run")
    assert seen[0]["linear.weight"].weight == 1.0
    assert seen[0]["linear.weight"].gradient == pytest.approx(120.0)


def test_the_plot_marks_unused_parameters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "norms.svg"
    inspect_output(capsys, f"experiment=line_120 --plot {path}")
    drawn = path.read_text()
    assert drawn.count("<!-- 2-norm of the gradient -->") == 1
    assert "<!-- time step -->" not in drawn
    assert "<!-- linear2.weight (never used) -->" in drawn
