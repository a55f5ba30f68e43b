"""The progress bar."""

import io
import re
from pathlib import Path

import pytest

from runner.tracking.tracker import LoggedStep
from tests.trainer.options import require_options
from tests.trainer.support import small_config
from trainer.history import History
from trainer.progress import describe
from trainer.run import execute_in_folder


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_logged_step_in_words() -> None:
    history = History(clipped=3, logged=8)
    logged = LoggedStep(loss=2.5, before=12.345, after=1.0, clipped=True, weight_norm=None, update_ratio=None)
    assert describe(logged, history) == "loss 2.5000, norm 12→1, clipped 38%"
    assert describe(logged, History()).endswith("clipped 0%")


@pytest.mark.parametrize("shown", [True, False])
def test_a_terminal_shows_the_values_speed_and_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: bool
) -> None:
    require_options("model=rnn", "data=text")
    config = small_config(tmp_path, "steps=40")
    config.log.progress = shown
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    execute_in_folder(config, tmp_path / "run")
    pattern = r"\d+/40\|.{8}\| [\d. ]+step/s, \d+:\d+ left, loss [\d.]+, norm [\d.]+→[\d.]+, clipped \d+%"
    assert bool(re.search(pattern, terminal.getvalue())) == shown
