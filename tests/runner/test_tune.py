"""The search: composed by Hydra, shared by processes, continued after any end; a diverged trial is a result."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest

from runner.errors import UserError
from runner.report import rows
from runner.sweeps import search as tune
from scripts import tune as script
from tests import programs
from tests.support import ROOT
from tests.trainer.support import SMALL, text_file
from trainer.project import composer

optuna.logging.set_verbosity(optuna.logging.WARNING)


SLOW = """
import time, trainer.loop
real = trainer.loop.take_step
def step(*arguments, **more):
    time.sleep(0.1)
    return real(*arguments, **more)
trainer.loop.take_step = step
"""


def command(here: Path, *arguments: str) -> list[str]:
    script = str(ROOT / "scripts" / "tune.py")
    return [script, f"data.path={text_file(here)}", *SMALL, "evaluate_every=2", *arguments]


def study(here: Path, name: str = "tune") -> Any:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{here}/outputs/studies/{name}/study.db")


def test_what_is_searched() -> None:
    found = tune.space(composer(), ["clip=norm,value", "optimizer.lr=tag(log,interval(0.1,10))", "steps=interval(5,9)",
                                    "model=lstm", "seed=range(1,4)"])  # fmt: skip
    assert found.fixed == ["model=lstm"]
    assert found.choices == {"clip": ["norm", "value"], "seed": ["1", "2", "3"]}
    assert found.intervals == {"optimizer.lr": (0.1, 10, True), "steps": (5, 9, False)}
    tune.check(composer(), found)
    assert found.whole == {"steps"}
    assert [found.threshold(policy) for policy in ("norm", "value", "autoclip")] == [1.0, 0.02, None]
    trial = optuna.trial.FixedTrial(
        {"clip": "value", "clip.max (value)": 0.1, "optimizer.lr": 2.0, "steps": 7, "seed": "2"}
    )
    assert tune.overrides_of(found, trial) == [
        "model=lstm", "clip=value", "seed=2", "optimizer.lr=2.0", "steps=7", "clip.max=0.1"]  # fmt: skip
    assert tune.space(composer(), []).choices == {"clip": list(tune.POLICIES)}
    fixed = tune.space(composer(), ["clip=norm", "clip.max=0.5"])
    assert (fixed.choices, fixed.threshold("norm")) == ({}, None)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["clip=norm,nrom"], "clip=nrom: no such option; did you mean clip=norm?"),
        (["optimizer.lr=interval(-1,1)"], "optimizer.lr=-1.0: must be a number above 0"),
        (["optimizer.lr=interval(2,1)"], "an interval goes up"),
        (["optimizer.lr=tag(log,interval(0,1))"], "on a log scale from above 0"),
        (["clip.maks=1"], "clip.maks=1: no such key"),
        (["--trials", "0"], "--trials=0: at least one"),
        (["data.path=/no/such/file"], "data.path=/no/such/file: no such file"),
        (["resume=latest"], "resume=latest: a search makes its runs and their folders itself"),
        (["hydra.run.dir=x"], "hydra.run.dir=x: a search makes its runs and their folders itself"),
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


def test_choices_keep_the_quotes_that_they_need() -> None:
    found = tune.space(composer(), ["clip='none',norm", "data.path='it\\'s, a \"text\"',LICENSE"])
    assert found.choices == {"clip": ["none", "norm"], "data.path": ["'it\\'s, a \"text\"'", "LICENSE"]}
    for choice in found.choices["data.path"]:
        tune.check(composer(), tune.Space([f"data.path={choice}"], {"clip": ["none"]}, {}))


@pytest.mark.parametrize("storage", ["nonsense", "sqlite:///DAMAGED"])
def test_a_storage_that_is_none_is_one_line(storage: str, tmp_path: Path) -> None:
    (tmp_path / "damaged.db").write_text("junk" * 999)
    given = storage.replace("DAMAGED", str(tmp_path / "damaged.db"))
    space = tune.space(composer(), ["clip=norm"])
    with pytest.raises(UserError, match=r"^--storage=.*: not the storage of a study \(.*\)$"):
        tune.run(tune.Search(tmp_path / "study", given, 1, space, composer()))


def test_optuna_is_absent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        script.main([])
    assert capsys.readouterr().err == 'error: a search needs optuna: pip install -c constraints.txt -e ".[tune]"\n'


def test_a_search_of_two_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They share the study; what diverges is pruned; the report reads it; the same command has nothing left to do."""
    arguments = command(tmp_path, "--trials", "8", "clip=none,norm,autoclip", "optimizer.lr=0.5,1e9", "steps=8")
    for process in [programs.Program(*arguments, cwd=tmp_path) for _ in range(2)]:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    trials = study(tmp_path).get_trials()
    assert 8 <= len(trials) <= 9, "one more may have been under way in the other process"
    ran = []
    for trial in trials:
        folder = tmp_path / trial.user_attrs["folder"]
        status = json.loads((folder / "status.json").read_text())
        expected = {"finished": "COMPLETE", "duplicate": "COMPLETE", "diverged": "PRUNED", "pruned": "PRUNED"}
        assert trial.state.name == expected[status["state"]]
        if status["state"] == "finished":
            assert trial.value == status["objective"]
            assert len(trial.intermediate_values) == 4
        if status["state"] != "duplicate":
            ran.append(folder)
    states = {json.loads((folder / "status.json").read_text())["state"] for folder in ran}
    assert {"finished", "diverged"} <= states
    table = rows.build([tmp_path / "outputs" / "studies" / "tune"])
    assert {trial.result.folder for trial in table.trials} <= {folder.resolve() for folder in ran}
    assert table.columns[0] == "clip.name"
    assert len(table.rows) > 1
    again = programs.run(*arguments, cwd=tmp_path)
    assert f"{len(trials)} trials" in again.stdout
    assert f"best, {study(tmp_path).best_value:.4f}" in again.stdout
    other = programs.run(*arguments, "seed=2", cwd=tmp_path)
    assert (other.returncode, other.stderr.count("\n")) == (2, 1)
    assert "this study searches something else" in other.stderr


def test_processes_that_begin_a_study_at_once_share_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials are left out; each thread has a connection of its own, as a process has."""
    monkeypatch.setattr(tune, "conclusion", lambda search, study: study.study_name)
    space = tune.space(composer(), ["clip=norm"])
    for number in range(4):
        folder = tmp_path / str(number)
        search = tune.Search(folder, f"sqlite:///{folder / 'study.db'}", 0, space, composer())
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(tune.run, [search] * 4)) == [str(number)] * 4


def test_a_killed_search_is_continued(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW)
    arguments = command(tmp_path, "--trials", "3", "clip=norm", "steps=4")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    process = subprocess.Popen([sys.executable, *arguments], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    second = tmp_path / "outputs" / "studies" / "tune" / "1" / "status.json"
    deadline = time.monotonic() + 60
    while not second.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = programs.run(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    states = [trial.state.name for trial in study(tmp_path).get_trials()]
    assert states[1] in ("RUNNING", "FAIL"), "the killed one, which counts for nothing"
    assert sum(state in ("COMPLETE", "PRUNED") for state in states) == 3
