"""The logged table of the first steps."""

import logging
from pathlib import Path

import pytest

from tests.trainer.support import first_steps_table, train_small


def test_parameters_of_several_elements_are_logged_as_norms(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    train_small(tmp_path, "log.first_steps=2", "clip.max=0.01", "optimizer.lr=0.5", "micro_batches=2")
    rows = first_steps_table(caplog)[2:]
    assert len(rows) == 2 * 7
    for step in (0, 1):
        values = [[float(cell) for cell in row[2:]] for row in rows[7 * step : 7 * step + 7]]
        assert sum(gradient**2 for _, gradient, _, _ in values) > 0.1
        assert sum(after**2 for _, _, after, _ in values) ** 0.5 == pytest.approx(0.01, rel=1e-4)
        assert sum(update**2 for *_, update in values) ** 0.5 == pytest.approx(0.005, rel=1e-3)


def test_no_table_is_logged_by_default(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    train_small(tmp_path)
    assert first_steps_table(caplog) == []
