"""A search: Optuna proposes the jobs of a sweep and prunes bad ones; a search is resumed after any interruption."""

import json
import math
import signal
from pathlib import Path
from typing import Any

import optuna
import pytest

from runner.errors import UserError
from runner.printable import format_loss
from runner.report import aggregate
from runner.sweeps import search
from runner.sweeps.grid import Points
from runner.sweeps.results import Job, Result, read_plan
from runner.sweeps.space import axes
from tests import programs
from tests.runner.support import COUNTER, composer, program, refused, status, wait_for

OPTUNA = ("-m", "sweep.method=optuna")


def study(folder: Path) -> Any:
    backend = optuna.storages.journal.JournalFileBackend(str(folder / search.STUDY_FILE))
    return optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))


def proposed(arguments: list[str], **values: Any) -> list[str]:
    """The overrides of a trial with these values under Optuna's names."""
    space = axes(composer(), arguments)
    named = {name.replace("__", " ").replace("_", "."): value for name, value in values.items()}
    return search.sample(optuna.trial.FixedTrial(named), space, Points(composer(), space))


def test_the_overrides_of_a_trial() -> None:
    """Fixed overrides, then options, then values and intervals; whole numbers where the key has them."""
    arguments = ["schedule=linear", "lr=tag(log,interval(0.1,10))", "steps=interval(7,9)", "seed=range(1,3)"]
    assert proposed(arguments, lr=2.0, steps=7, seed="seed=2") == ["schedule=linear", "lr=2.0", "steps=7", "seed=2"]


def test_a_key_is_sampled_separately_for_each_option_that_has_it() -> None:
    space = axes(composer(), ["clip=norm,zclip", "clip.max=interval(0.1,10)", "clip.threshold=interval(1,4)"])
    points = Points(composer(), space)
    norm = {"clip": "clip=norm", "clip.max [clip=norm]": 0.5}
    assert search.sample(optuna.trial.FixedTrial(norm), space, points) == ["clip=norm", "clip.max=0.5"]
    zclip = {"clip": "clip=zclip", "clip.max [clip=zclip]": 2.0, "clip.threshold [clip=zclip]": 3.0}
    drawn = search.sample(optuna.trial.FixedTrial(zclip), space, points)
    assert drawn == ["clip=zclip", "clip.max=2.0", "clip.threshold=3.0"]


@pytest.mark.parametrize("key", ["schedule.final=interval(0.2,0.8)", "schedule.final=0.5", "++schedule.final=0.2,0.5"])
def test_a_trial_whose_option_lacks_a_key_runs_without_it(key: str, tmp_path: Path) -> None:
    """Repeated points are duplicates, so that every trial has a value."""
    arguments = ("schedule=constant,linear", key, "sweep.trials=8", "hydra.sweep.dir=swept")
    done = program(*OPTUNA, *arguments, cwd=tmp_path, script=COUNTER)
    assert done.returncode == 0, done.stdout + done.stderr
    plan = read_plan(tmp_path / "swept")
    constant = [job for job in plan.jobs if job.overrides == ["schedule=constant"]]
    linear = [job for job in plan.jobs if "schedule=linear" in job.overrides]
    assert constant
    assert len(constant) + len(linear) == 8
    assert all(any("schedule.final=" in override for override in job.overrides) for job in linear)
    assert [job.duplicate_of for job in constant] == [None, *[constant[0].number] * (len(constant) - 1)]
    assert [trial.state.name for trial in study(tmp_path / "swept").get_trials()] == ["COMPLETE"] * 8


USER_ERRORS = [
    ("clip=norm,nrom", "clip=nrom: no such option; did you mean clip=norm?"),
    ("lr=interval(-1,1)", "lr=-1: must be a number above 0"),
    ("lr=interval(2,1)", "lr=interval(2,1): the second end of an interval must be above the first"),
    ("lr=tag(log,interval(0,1))", "the second end of an interval must be above the first, and on a log scale both abo"),
    ("clip.maks=interval(1,2)", "clip.maks=1: no such key in clip=norm; did you mean clip.max?"),
    ("seed=3", "sweep.method=optuna: there is nothing to search"),
    ("sweep.trials=0 seed=1,2", "sweep.trials=0: must be a whole number of at least 1"),
    (
        "sweep.method=grid lr=interval(0.1,1)",
        "a grid takes lists, choice(…) and range(…); sweep.method=optuna searches",
    ),
]


@pytest.mark.parametrize(("arguments", "line"), USER_ERRORS, ids=[arguments for arguments, _ in USER_ERRORS])
def test_a_user_error_is_one_line(
    arguments: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert line in refused([*OPTUNA, *arguments.split()], capsys)
    assert list(tmp_path.iterdir()) == []


def test_optuna_is_not_installed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    line = 'sweep.method=optuna needs Optuna: pip install -c constraints.txt -e ".[search]"'
    assert refused([*OPTUNA, "lr=interval(0.1,1)"], capsys) == line


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A search of twelve trials, two at once, a third of which diverge, and what it printed."""
    here = tmp_path_factory.mktemp("here")
    arguments = ("clip=none,norm", "lr=0.05,0.1,1e30", "clip.max=interval(0.5,5)", "evaluate_every=1",
                 "sweep.trials=12", "sweep.jobs=2", "hydra.sweep.dir=swept")  # fmt: skip
    done = program(*OPTUNA, *arguments, cwd=here, script=COUNTER)
    assert done.returncode == 0, done.stdout + done.stderr
    return here / "swept", done.stdout


def test_every_trial_is_a_job(searched: tuple[Path, str]) -> None:
    """A diverged trial is complete, with the value infinity."""
    folder, output = searched
    trials, plan = study(folder).get_trials(), read_plan(folder)
    assert plan is not None
    assert [trial.number for trial in trials] == [job.number for job in plan.jobs] == list(range(12))
    states = set()
    for trial, job in zip(trials, plan.jobs, strict=True):
        found = status(folder / str(job.number))
        states.add(found["state"])
        if found["state"] == "finished":
            assert (trial.state.name, trial.value) == ("COMPLETE", found["objective"])
            assert len(trial.intermediate_values) == found["steps"]
        if found["state"] == "diverged":
            assert (trial.state.name, trial.value) == ("COMPLETE", math.inf)
        if found["state"] == "duplicate":
            assert trial.value == trials[found["duplicate_of"]].value
        if job.swept["clip"] == "none":
            assert not any(name.startswith("clip.max [clip=norm]") for name in trial.params)
    assert {"finished", "diverged"} <= states <= {"finished", "diverged", "duplicate", "pruned"}
    best = min(trials, key=lambda trial: trial.value)
    assert f"best: job {best.number} with {format_loss(best.value)}: python train.py " in output


def test_the_value_of_a_trial_is_that_of_its_job() -> None:
    """A duplicate takes it from the job's result, since the study has no value until the job's process has ended."""

    def value(state: str, objective: float | None) -> float | None:
        return search.trial_value(Result(Job(0, [], ""), Path("0"), state, objective=objective))

    assert value("finished", 0.5) == 0.5
    assert value("finished", math.nan) == value("finished", None) == value("diverged", 0.5) == math.inf
    assert value("pruned", 0.5) is value("running", 0.5) is value("failed", None) is None


def test_the_report_reads_a_search(searched: tuple[Path, str]) -> None:
    table = aggregate.build([searched[0]])
    assert {"clip.name", "clip.max", "lr"} <= set(table.columns)
    assert len(table.trials) + table.duplicates == 12


def test_a_finished_search_starts_no_job_unless_it_gets_more_trials(searched: tuple[Path, str]) -> None:
    folder, _ = searched
    done = program("sweep.resume=swept", cwd=folder.parent, script=COUNTER)
    assert (done.returncode, len(study(folder).trials)) == (0, 12), done.stderr
    done = program("sweep.resume=swept", "sweep.trials=13", cwd=folder.parent, script=COUNTER)
    assert (done.returncode, len(study(folder).trials)) == (0, 13), done.stdout + done.stderr


def test_a_time_budget(tmp_path: Path) -> None:
    arguments = ("seed=range(0,1000)", "sweep.trials=1000", "sweep.hours=0.0005", "hydra.sweep.dir=swept")
    done = program(*OPTUNA, *arguments, cwd=tmp_path, script=COUNTER)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 1 <= len(study(tmp_path / "swept").trials) < 100


def test_the_pruner_ends_a_bad_job(tmp_path: Path) -> None:
    """The last job logs a loss far above those of the others, and waits for a signal."""
    script = tmp_path / "job.py"
    script.write_text(JOB)
    command = f"sweep.command='{programs.sys.executable} job.py'"
    arguments = ("seed=range(0,100)", "sweep.trials=8", command, "hydra.sweep.dir=swept")
    done = program(*OPTUNA, *arguments, cwd=tmp_path, script=COUNTER)
    assert done.returncode == 0, done.stdout + done.stderr
    assert status(tmp_path / "swept" / "7")["state"] == "pruned"
    assert "the validation loss 9 at step 1 is worse than that of most trials" in done.stdout
    trial = study(tmp_path / "swept").get_trials()[7]
    assert (trial.state.name, trial.intermediate_values) == ("PRUNED", {1: 9.0})


# A job that imports nothing of the project: it writes the files of a run and reacts to its signals.
JOB = """
import json, pathlib, re, signal, sys
folder = pathlib.Path(sys.argv[-1].split("=")[1])
folder.mkdir()
last = folder.name == "7"
def end(*_):
    fields = ("state step steps objective reason started updated pid host duplicate_of").split()
    values = dict.fromkeys(fields) | {"state": "interrupted" if last else "finished", "objective": 1.0}
    values |= {"step": 1, "steps": 1, "pid": 1, "host": "a"}
    (folder / "status.json").write_text(json.dumps(values))
    sys.exit(143 if last else 0)
signal.signal(signal.SIGTERM, end)
(folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss/val": 9.0 if last else 1.0}) + "\\n")
signal.pause() if last else end()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_an_interrupted_search_is_resumed(number: signal.Signals, code: int, tmp_path: Path) -> None:
    folder = tmp_path / "swept"
    (tmp_path / "incident").write_text("wait 3")
    arguments = ("lr=interval(0.01,0.1)", "incident=incident", "sweep.trials=3", "hydra.sweep.dir=swept")
    with programs.Program(COUNTER, *OPTUNA, *arguments, cwd=tmp_path) as process:
        wait_for((tmp_path / "incident.reached").exists)
        process.send_signal(number)
        assert process.wait(timeout=60) == code
    if number == signal.SIGKILL:
        programs.os.kill(status(folder / "0")["pid"], signal.SIGTERM)
    wait_for(lambda: json.loads((folder / "0" / "status.json").read_text())["state"] == "interrupted")
    (tmp_path / "incident").unlink()
    done = program("sweep.resume=swept", cwd=tmp_path, script=COUNTER)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resumed after step 3" in (folder / "0" / "train.log").read_text()
    trials = study(folder).get_trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    assert trials[0].value == status(folder / "0")["objective"]
    assert len({trial.params["lr"] for trial in trials}) == 3


def test_a_trial_that_was_proposed_but_never_written_counts_as_failed(tmp_path: Path) -> None:
    """The process was killed between the two files."""
    folder = tmp_path / "swept"
    arguments = ("seed=range(0,1000)", "sweep.trials=1", "hydra.sweep.dir=swept")
    assert program(*OPTUNA, *arguments, cwd=tmp_path, script=COUNTER).returncode == 0
    study(folder).ask()
    done = program("sweep.resume=swept", "sweep.trials=3", cwd=tmp_path, script=COUNTER)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [trial.state.name for trial in study(folder).get_trials()] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert [path.name for path in sorted(folder.glob("?"))] == ["0", "2"]


def test_a_failed_trial_is_run_again_with_its_number(tmp_path: Path) -> None:
    (tmp_path / "incident").write_text("bug 3")
    arguments = ("lr=interval(0.01,0.1)", "incident=incident", "sweep.trials=1", "hydra.sweep.dir=swept")
    assert program(*OPTUNA, *arguments, cwd=tmp_path, script=COUNTER).returncode == 1
    (tmp_path / "incident").unlink()
    (tmp_path / "swept").rename(tmp_path / "moved")
    done = program("sweep.resume=moved", "sweep.trials=2", cwd=tmp_path, script=COUNTER)
    assert done.returncode == 0, done.stdout + done.stderr
    trials = study(tmp_path / "moved").get_trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 2
    assert [trial.value for trial in trials] == [status(tmp_path / "moved" / name)["objective"] for name in "01"]


def test_the_first_invalid_corner_is_named() -> None:
    space = axes(composer(), ["clip=norm,value", "clip.max=interval(-1,1)"])
    with pytest.raises(UserError, match=r"clip\.max=-1: must be .* \(clip=norm clip\.max=-1\)"):
        search.plan(composer(), space, Points(composer(), space), [])
