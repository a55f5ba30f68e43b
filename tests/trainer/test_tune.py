"""scripts/tune.py: a search of this project's own, and one line for each mistake."""

from pathlib import Path

import pytest

from scripts import tune as script
from tests import programs
from tests.support import ROOT
from tests.trainer.support import SMALL, text_file


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["clip=norm,nrom"], "clip=nrom: no such option; did you mean clip=norm?"),
        (["optimizer.lr=interval(-1,1)"], "optimizer.lr=-1.0: must be a number above 0"),
        (["--trials", "0"], "--trials=0: at least one"),
        (["resume=latest"], "resume=latest: a search makes its runs and their folders itself"),
        (["--name="], "--name: is the study's folder, and cannot be empty"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        script.main(arguments)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert (error.count("\n"), line in error) == (1, True), error
    assert list(tmp_path.iterdir()) == []


def test_optuna_is_absent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        script.main([])
    assert capsys.readouterr().err == 'error: a search needs optuna: pip install -c constraints.txt -e ".[tune]"\n'


def test_a_search(tmp_path: Path) -> None:
    """Its runs are those of this project, and what it proposes last is a command of train.py."""
    arguments = (f"data.path={text_file(tmp_path)}", *SMALL, "steps=2", "evaluate_every=1", "clip=norm")
    done = programs.run(ROOT / "scripts" / "tune.py", "--trials=2", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "study tune: 2 trials: 2 complete" in done.stdout
    assert "python train.py " in done.stdout
    assert len(list((tmp_path / "outputs" / "studies" / "tune").glob("*/checkpoints/step_2.pt"))) == 2
