"""The search: composed by Hydra, shared by processes, continued after any end; a diverged trial is a result."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest

from runner.errors import UserError, explain
from runner.report import rows
from runner.sweeps import search
from tests import programs
from tests.runner.support import PROJECT, composer, wait_for

optuna.logging.set_verbosity(optuna.logging.WARNING)

SCRIPT = PROJECT.root / "tune.py"


def study(folder: Path) -> Any:
    return optuna.load_study(study_name=folder.name, storage=f"sqlite:///{folder}/study.db")


def test_what_is_searched() -> None:
    found = search.space(composer(), ["clip=norm,value", "lr=tag(log,interval(0.1,10))", "steps=interval(7,9)",
                                      "schedule=linear", "seed=range(1,3)"])  # fmt: skip
    assert found.fixed == ["schedule=linear"]
    assert found.choices == {"clip": ["norm", "value"], "seed": ["1", "2"]}
    assert found.intervals == {"lr": (0.1, 10, True), "steps": (7, 9, False)}
    search.check(composer(), found)
    assert found.whole == {"steps"}
    assert [found.threshold(policy) for policy in ("norm", "value", "autoclip")] == [1.0, 0.02, None]
    trial = optuna.trial.FixedTrial({"clip": "value", "clip.max (value)": 0.1, "lr": 2.0, "steps": 7, "seed": "2"})
    assert search.overrides_of(found, trial) == [
        "schedule=linear", "clip=value", "seed=2", "lr=2.0", "steps=7", "clip.max=0.1"]  # fmt: skip
    assert search.space(composer(), []).choices == {"clip": list(search.POLICIES)}
    fixed = search.space(composer(), ["clip=norm", "clip.max=0.5"])
    assert (fixed.choices, fixed.threshold("norm")) == ({}, None)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["clip=norm,nrom"], "clip=nrom: no such option; did you mean clip=norm?"),
        (["clip=norm", "lr=interval(-1,1)"], "lr=-1.0: must be a number above 0"),
        (["lr=interval(2,1)"], "an interval goes up"),
        (["lr=tag(log,interval(0,1))"], "on a log scale from above 0"),
        (["clip.maks=1"], "clip.maks=1: no such key"),
        (["resume=latest"], "resume=latest: a search makes its runs and their folders itself"),
        (["hydra.run.dir=x"], "hydra.run.dir=x: a search makes its runs and their folders itself"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], line: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - of whatever type: `explain` makes the line of it
        search.check(composer(), search.space(composer(), arguments))
    assert line in explain(caught.value, PROJECT, arguments)


def test_choices_keep_the_quotes_that_they_need() -> None:
    found = search.space(composer(), ["clip='none',norm", "initial='it\\'s, a \"text\"',LICENSE"])
    assert found.choices == {"clip": ["none", "norm"], "initial": ["'it\\'s, a \"text\"'", "LICENSE"]}
    for choice in found.choices["initial"]:
        search.check(composer(), search.Space([f"initial={choice}"], {"clip": ["none"]}, {}))


@pytest.mark.parametrize("storage", ["nonsense", "sqlite:///DAMAGED"])
def test_a_storage_that_is_none_is_one_line(storage: str, tmp_path: Path) -> None:
    (tmp_path / "damaged.db").write_text("junk" * 999)
    given = storage.replace("DAMAGED", str(tmp_path / "damaged.db"))
    space = search.space(composer(), ["clip=norm"])
    with pytest.raises(UserError, match=r"^--storage=.*: not the storage of a study \(.*\)$"):
        search.run(search.Search(tmp_path / "study", given, 1, space, composer()))


def test_a_search_of_two_processes(tmp_path: Path) -> None:
    """They share the study; what diverges is pruned; the report reads it; the same command has nothing left to do."""
    folder = tmp_path / "outputs" / "studies" / "tune"
    overrides = ["clip=none,norm", "lr=0.05,1e30", "steps=8", "evaluate_every=2"]
    arguments = [(str(folder), "6", seed, *overrides) for seed in ("3", "4")]  # each draws both rates in two trials
    for process in [programs.Program(SCRIPT, *each, cwd=tmp_path) for each in arguments]:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    trials = study(folder).get_trials()
    assert 6 <= len(trials) <= 7, "one more may have been under way in the other process"
    ran = []
    for trial in trials:
        status = json.loads(Path(trial.user_attrs["folder"], "status.json").read_text())
        expected = {"finished": "COMPLETE", "duplicate": "COMPLETE", "diverged": "PRUNED", "pruned": "PRUNED"}
        assert trial.state.name == expected[status["state"]]
        if status["state"] == "finished":
            assert trial.value == status["objective"]
            assert len(trial.intermediate_values) == 4
        if status["state"] != "duplicate":
            ran.append(Path(trial.user_attrs["folder"]))
    states = {json.loads((each / "status.json").read_text())["state"] for each in ran}
    assert {"finished", "diverged"} <= states
    table = rows.build([folder])
    assert {trial.result.folder for trial in table.trials} <= set(ran)
    assert table.columns[0] == "clip.name"
    assert len(table.rows) > 1

    def asked(*more: str) -> search.Search:
        space = search.space(composer(), [*overrides, *more])
        return search.Search(folder, f"sqlite:///{folder}/study.db", 6, space, composer())

    again = search.run(asked())
    assert f"{len(trials)} trials" in again
    assert f"best, {study(folder).best_value:.4f}" in again
    with pytest.raises(UserError, match="this study searches something else"):
        search.run(asked("seed=2"))


def test_processes_that_begin_a_study_at_once_share_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials are left out; each thread has a connection of its own, as a process has."""
    monkeypatch.setattr(search, "conclusion", lambda search, study: study.study_name)
    space = search.space(composer(), ["clip=norm"])
    for number in range(4):
        folder = tmp_path / str(number)
        asked = search.Search(folder, f"sqlite:///{folder / 'study.db'}", 0, space, composer())
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(search.run, [asked] * 4)) == [str(number)] * 4


def test_a_killed_search_is_continued(tmp_path: Path) -> None:
    folder = tmp_path / "tune"
    (tmp_path / "incident").write_text("wait 3")
    arguments = (str(folder), "3", "1", "clip=norm", f"incident={tmp_path}/incident")
    with programs.Program(SCRIPT, *arguments, cwd=tmp_path) as process:
        wait_for((tmp_path / "incident.reached").exists)
        process.send_signal(signal.SIGKILL)
        process.wait()
    (tmp_path / "incident").unlink()
    done = programs.run(SCRIPT, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    states = [trial.state.name for trial in study(folder).get_trials()]
    assert states[0] in ("RUNNING", "FAIL"), "the killed one, which counts for nothing"
    assert sum(state in ("COMPLETE", "PRUNED") for state in states) == 3
