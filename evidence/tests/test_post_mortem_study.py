"""The post-mortems of ten diverging runs: one setting followed anew, and the claims about the page's tables."""

import math
from pathlib import Path

import pytest

from evidence import pages, post_mortem_study
from evidence.common import compose
from evidence.post_mortem_study import BUILT_WITH, SET_ASIDE, follow

SETTINGS = BUILT_WITH | SET_ASIDE
THIRD = 25 / 3


def test_the_settings_cover_models_and_optimizers() -> None:
    configs = [compose(*setting.overrides) for setting in SETTINGS.values()]
    for settings in (BUILT_WITH, SET_ASIDE):
        names = {compose(*setting.overrides).model.name for setting in settings.values()}
        assert names == {"rnn", "lstm", "mlp", "deep_linear", "linear_net"}
    assert {config.optimizer.name for config in configs} == {"sgd", "adam", "rmsprop"}
    assert any(getattr(config.optimizer, "momentum", 0) for config in configs)


@pytest.mark.parametrize("part", ["built_with", "set_aside"])
def test_every_first_command_works(part: str) -> None:
    """In the tables of the page: exit status 0, and a final loss within the best third of the grid."""
    rows = pages.cells(pages.content(post_mortem_study.PAGE.read_text(encoding="utf-8"), part))
    assert [row[0] for row in rows] == list(BUILT_WITH if part == "built_with" else SET_ASIDE)
    for name, _, built_in, named, status, _, _, better, _ in rows:
        assert built_in == SETTINGS[name].cause
        assert named == "the same" or part == "set_aside"
        assert status == "0"
        assert int(better) < THIRD


def test_a_setting_is_followed(tmp_path: Path) -> None:
    """On the command line; the ranks are counted among the cells of the grid."""
    outcome = follow(tmp_path, "linear_net", SET_ASIDE["linear_net"], 1)
    assert outcome.cause == SET_ASIDE["linear_net"].cause
    assert outcome.status == 0
    assert outcome.rank < THIRD
    cells = [post_mortem_study.final_loss(path.parent) for path in tmp_path.glob("linear_net/*_*/status.json")
             if "finished" in path.read_text()]  # fmt: skip
    assert len(cells) == 25 - outcome.diverged
    assert outcome.best == min(cells)
    assert outcome.rank == sum(cell < outcome.loss for cell in cells)
    assert math.isfinite(outcome.loss)
