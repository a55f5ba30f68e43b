"""Hydra's own keys that the runner depends on: each value works, or is refused in one line before a folder exists."""

import re
import shlex
from pathlib import Path

import pytest

from tests.runner.support import files, program, refused, status

LONG = 300 * "x"
RUN = r"outputs/runs/\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_[0-9a-f]{6}"

# The arguments, and a pattern of the path of the run's folder.
LEGAL = [
    ("hydra.verbose=[a,b]", RUN),
    ("hydra.verbose=true", RUN),
    ("hydra.verbose=runner", RUN),
    ("hydra.job.name=foo", RUN),
    (f"hydra.job.name={LONG}", RUN),
    ("hydra.job.chdir=false", RUN),
    ("+hydra.job.env_set.NAME=value", RUN),
    ("hydra/job_logging=default", RUN),
    ("hydra/hydra_logging=none", RUN),
    ("hydra.run.dir=relative/run", "relative/run"),
    ("hydra.run.dir={here}/absolute", "absolute"),
    ("hydra.run.dir='with spaces/and, commas'", "with spaces/and, commas"),
    ("hydra.run.dir=named_${{seed}}", "named_1"),
    ("hydra.output_subdir=null", RUN),
    ("hydra.output_subdir=hydra", RUN),
    ("hydra.runtime.output_dir=elsewhere", RUN),
    ("hydra.searchpath=[pkg://runner.cli]", RUN),
    ("hydra.searchpath=[]", RUN),
]
ILLEGAL = [
    ("hydra.verbose=3", "hydra.verbose=3: must be true, false, or names of loggers"),
    ("hydra.verbose=null", "hydra.verbose=null: must be true, false, or names of loggers"),
    ("hydra.verbose=[1]", "hydra.verbose=[1]: must be true, false, or names of loggers"),
    ("hydra.job.name=foo hydra/job_logging=default", "hydra.job.name=foo: with hydra/job_logging=default it names the"),
    (f"hydra.job.name={LONG} hydra/job_logging=default", "which must be train.log; leave this out"),
    ("hydra.job.chdir=true", "hydra.job.chdir=true: a run does not change the working directory; leave this out"),
    ("hydra.job.chdir=maybe", "hydra.job.chdir: Value 'maybe' is not a valid bool"),
    ("hydra.job_logging.root=3", "hydra.job_logging.root: must have handlers and one of the levels CRITICAL, FATAL,"),
    ("hydra/job_logging=default hydra.job_logging.root.level=LOUD", "hydra.job_logging.root: must have handlers"),
    ("hydra/job_logging=nope", "hydra/job_logging=nope: no such option; did you mean hydra/job_logging=none?"),
    ("hydra/hydra_logging=nope", "hydra/hydra_logging=nope: no such option; did you mean hydra/hydra_logging=none?"),
    ("hydra.run.dir=null", "hydra.run.dir: must not be null"),
    ("hydra.run.dir=run/${nope}", "hydra.run.dir: Interpolation key 'nope' not found"),
    ("hydra.run.dir='\\${run}'", "hydra.run.dir=${run}: cannot be the folder of a run, since Hydra reads ${"),
    ("hydra.run.dir=[run]", "hydra.run.dir: Cannot convert 'list' to string"),
    ("hydra.run.dir=file/run", "hydra.run.dir=file/run: cannot be created, since"),
    ("hydra.run.dir='~/run'", "hydra.run.dir=~/run: Hydra does not expand ~; write /"),
    ("hydra.output_subdir=..", "hydra.output_subdir=..: must be null, or the name of a new folder in that of the run"),
    ("hydra.output_subdir=a/b", "hydra.output_subdir=a/b: must be null, or the name of a new folder"),
    ("hydra.output_subdir=", "hydra.output_subdir=: must be null, or the name of a new folder"),
    ("hydra.output_subdir=train.log", "hydra.output_subdir=train.log: must be null, or the name of a new folder"),
    ("hydra.mode=MULTIRUN", "hydra.mode=MULTIRUN: -m makes a sweep; leave this out"),
    ("hydra.mode=nope", "hydra.mode=nope: -m makes a sweep; leave this out"),
    ("hydra.sweep.dir=x", "hydra.sweep.dir=x: there is no sweep; add -m"),
    ("hydra.sweep.subdir=x", "hydra.sweep.subdir=x: there is no sweep; add -m"),
    ("-m seed=1,2 hydra.sweep.subdir=x", "hydra.sweep.subdir=x: "),
    ("-m seed=1,2 hydra.sweep.dir='~/x'", "hydra.sweep.dir=~/x: Hydra does not expand ~; write /"),
    ("-m seed=1,2 hydra.run.dir=x", "hydra.run.dir=x: is the folder of a single run; that of a sweep is hydra.sweep.d"),
    ("-m seed=1,2 hydra.verbose=3", "hydra.verbose=3: must be true, false, or names of loggers"),
    ("-m seed=1,2 hydra.job.chdir=true", "hydra.job.chdir=true: a run does not change the working directory"),
    ("hydra.searchpath=nope", "hydra.searchpath must be a list of strings"),
    ("hydra.searchpath=[file://nope]", "hydra.searchpath=[file://nope]: no such folder of configurations: file://nope"),
    (
        "hydra.searchpath=[pkg://no.such]",
        "hydra.searchpath=[pkg://no.such]: no such folder of configurations: pkg://no",
    ),
    ("hydra.sweeper.params.seed=3", "hydra.sweeper.params.seed=3: not used here; sweep.method=grid or"),
    ("hydra.launcher.n_jobs=3", "hydra.launcher.n_jobs=3: not used here; sweep.jobs=4 runs four jobs at once"),
    ("hydra.nope=1", "hydra.nope=1: no such key"),
]


@pytest.mark.parametrize(("arguments", "folder"), LEGAL, ids=[arguments[:40] for arguments, _ in LEGAL])
def test_a_legal_value_of_hydras_keys(arguments: str, folder: str, tmp_path: Path) -> None:
    """The run finishes; its log is train.log, and the printed path is relative to the working directory."""
    words = [word.format(here=tmp_path) for word in re.split(r" (?=hydra)", arguments)]
    done = program(*words, "steps=1", "evaluate_every=1", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    (printed,) = re.findall(r"^run +(.*)$", done.stdout, re.MULTILINE)
    (run,) = [path.parent for path in tmp_path.rglob("status.json")]
    assert re.fullmatch(folder, str(run.relative_to(tmp_path)))
    assert shlex.quote(str(run.relative_to(tmp_path))) == shlex.quote(printed.strip("'"))
    assert status(run)["state"] == "finished"
    assert "finished (step 1 of 1)" in (run / "train.log").read_text()


@pytest.mark.parametrize(("arguments", "line"), ILLEGAL, ids=[arguments[:60] for arguments, _ in ILLEGAL])
def test_an_illegal_value_of_hydras_keys(
    arguments: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    assert line in refused(arguments.split(), capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_rejected_run_removes_nothing_outside_its_folder(tmp_path: Path) -> None:
    """A run that cannot be built removes Hydra's folder, so `hydra.output_subdir` must not name another one."""
    assert program("hydra.run.dir=runs/first", "steps=1", "evaluate_every=1", cwd=tmp_path).returncode == 0
    before = files(tmp_path)
    done = program("hydra.run.dir=runs/second", "hydra.output_subdir=..", "initial=nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert files(tmp_path) == before


@pytest.mark.parametrize("name", ["x=y", "a b[c]", "q'u\"o,te", "a$b"])
def test_special_characters_in_the_name_of_the_working_directory(name: str, tmp_path: Path) -> None:
    (here := tmp_path / name).mkdir()
    done = program("steps=1", "evaluate_every=1", cwd=here)
    assert (done.returncode, done.stderr) == (0, "")
    assert status(here / "outputs" / "latest")["state"] == "finished"
    assert program("resume=latest", "steps=2", cwd=here).returncode == 0


@pytest.mark.parametrize("arguments", ["", "-m seed=1,2", "resume=run", "sweep.resume=swept"])
def test_an_interpolation_in_the_name_of_the_working_directory(arguments: str, tmp_path: Path) -> None:
    (here := tmp_path / "a${b}c").mkdir()
    done = program(*arguments.split(), cwd=here)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr == f"error: {here}: cannot be the working directory, since Hydra reads ${{ as an interpolation\n"
    assert list(here.iterdir()) == []
