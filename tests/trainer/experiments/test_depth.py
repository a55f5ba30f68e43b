"""The experiment depth: the gradient explodes or vanishes through thirty linear layers."""

from pathlib import Path

import pytest

from tests.trainer.support import compose, inspect_output, warnings_of_run

pytestmark = pytest.mark.long

SHORT = ("experiment=depth", "steps=3", "evaluate_every=1")


def test_a_run_warns_of_vanishing_gradients(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (line,) = warnings_of_run(tmp_path / "1", caplog, compose(*SHORT, "model.gain=0.5"))
    assert "gradients vanish" in line
    assert "layers.0.weight, layers.1.weight, layers.2.weight and 27 more" in line
    assert warnings_of_run(tmp_path / "2", caplog, compose(*SHORT)) == []


def test_an_inspection_stops_at_a_nonfinite_gradient(capsys: pytest.CaptureFixture[str]) -> None:
    text = inspect_output(capsys, "experiment=depth clip=none --steps 9")
    assert text.startswith("step 2;")
    assert "stopped at step 2 of 9: a gradient is not finite" in text
    assert "non-finite: an element of the gradient is nan or infinite" in text
