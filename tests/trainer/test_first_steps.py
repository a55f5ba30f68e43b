"""The table of the first steps, against plain arithmetic."""

import logging
from pathlib import Path

import pytest

from tests.trainer.support import train
from trainer.project import compose
from trainer.run import execute_in_folder

TITLE = "the first steps"


def rows(caplog: pytest.LogCaptureFixture) -> list[list[str]]:
    lines = "\n".join(record.getMessage() for record in caplog.records if record.name == "trainer.monitor.first_steps")
    return [line.split() for line in lines.splitlines()]


@pytest.mark.parametrize("clip", ["norm", "value", "none"])
def test_line_120(tmp_path: Path, caplog: pytest.LogCaptureFixture, clip: str) -> None:
    caplog.set_level(logging.INFO)
    config = compose("experiment=line_120", f"clip={clip}", "clip.max=1", "steps=9", "log.progress=false")
    execute_in_folder(config, tmp_path / "run")
    title, header, *found = rows(caplog)
    assert " ".join(title).startswith(TITLE)
    assert header == ["step", "parameter", "weight", "gradient", "after", "clipping", "update"]
    assert [row[0] for row in found[::4]] == [str(step) for step in range(1, 9)]  # eight of the nine
    assert found[2][1:] == ["linear2.weight", found[2][2], "none", "none", "0"]
    # the same by hand: mean squared error of w x + b against 4 x + 1 at these four points
    weight, bias, points = 1.0, 0.0, (-6.0, -2.0, 2.0, 6.0)
    for step in range(8):
        errors = [(weight - 4) * x + bias - 1 for x in points]
        gradients = [sum(2 * e * x for e, x in zip(errors, points, strict=True)) / 4, sum(2 * e for e in errors) / 4]
        rounding = 1e-6 * max(abs(e) for e in errors)  # of float32, in sums that cancel
        if step == 0:
            assert gradients == [-120.0, -2.0]
        norm = sum(g * g for g in gradients) ** 0.5
        after = {"none": gradients, "norm": [g * min(1, 1 / norm) for g in gradients],
                 "value": [max(-1.0, min(1.0, g)) for g in gradients]}[clip]  # fmt: skip
        for row, values in zip(found[4 * step :], zip((weight, bias), gradients, after, strict=True), strict=False):
            shown = [float(cell) for cell in row[2:]]
            assert shown == pytest.approx([*values, -0.1 * values[2]], rel=1e-4, abs=1e-4 + rounding)
        weight, bias = weight - 0.1 * after[0], bias - 0.1 * after[1]


def test_larger_parameters_are_shown_by_their_norms(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    train(tmp_path, "log.first_steps=2", "clip.max=0.01", "optimizer.lr=0.5", "accumulate=2")
    found = rows(caplog)[2:]
    assert len(found) == 2 * 7
    for step in (0, 1):
        values = [[float(cell) for cell in row[2:]] for row in found[7 * step : 7 * step + 7]]
        assert sum(gradient**2 for _, gradient, _, _ in values) > 0.1
        assert sum(after**2 for _, _, after, _ in values) ** 0.5 == pytest.approx(0.01, rel=1e-4)
        assert sum(update**2 for *_, update in values) ** 0.5 == pytest.approx(0.005, rel=1e-3)


def test_no_table_unless_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    train(tmp_path)
    assert rows(caplog) == []
