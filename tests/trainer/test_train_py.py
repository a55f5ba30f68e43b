"""train.py as a program: a run, a divergence, the sweep of the README, and a search."""

import json
import re
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams import plugin_data_pb2

from tests import programs
from tests.support import ROOT
from tests.trainer.support import SMALL, text_file

pytestmark = pytest.mark.long


def test_a_run_prints_its_summary_and_writes_its_files(tmp_path: Path) -> None:
    arguments = (f"data.path={text_file(tmp_path)}", *SMALL, "data.sample=30")
    done = programs.run(ROOT / "train.py", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for pattern in (
        r"^state +finished \(step 6 of 6\)$",
        r"^loss +first [\d.]+, last [\d.]+, best validation [\d.]+ at step 6$",
        r"^clipped +[\d.]+ % of the logged steps; too few for a verdict: 6 logged steps",
        r"^norm before +median [\d.]+, 95th percentile [\d.]+$",
        r"^sample +\S",
        r"^run +outputs/runs/\S+$",
    ):
        assert re.search(pattern, done.stdout, re.MULTILINE), (pattern, done.stdout)
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    assert (tmp_path / "outputs" / "latest").resolve() == folder.resolve()
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"step_6.pt", "best.pt"}
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["step"], status["steps"], status["reason"]) == ("finished", 6, 6, None)
    assert 0 < status["objective"] < 10


def test_divergence_is_exit_status_3(tmp_path: Path) -> None:
    arguments = (f"data.path={text_file(tmp_path)}", *SMALL, "steps=60", "optimizer.lr=1e4", "clip=none")
    done = programs.run(ROOT / "train.py", *arguments, cwd=tmp_path)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    status = json.loads((tmp_path / "outputs" / "latest" / "status.json").read_text())
    assert status["state"] == "diverged"
    assert "step" in status["reason"]


def test_the_sweep_of_the_readme(tmp_path: Path) -> None:
    """The sweep finishes although jobs without clipping diverge, and writes the files of a sweep."""
    text = text_file(tmp_path, 8000)
    unstable = (
        f"data.path={text}",
        "steps=20",
        "model.hidden=32",
        "data.sample=0",
        "optimizer.lr=20",
        "evaluate_every=10",
    )
    grid = ("clip=none,norm", "clip.max=0.5,1.0", "seed=1")  # with two of its three policies and one of its seeds
    done = programs.run(ROOT / "train.py", "-m", *grid, *unstable, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
    assert (tmp_path / "outputs" / "latest").resolve() == folder.resolve()
    plan = json.loads((folder / "sweep.json").read_text())
    assert plan["arguments"][:3] == list(grid)
    assert len(plan["jobs"]) == 4
    found = [json.loads((folder / str(number) / "status.json").read_text()) for number in range(4)]
    states = [status["state"] for status in found]
    assert states[:2] == ["diverged", "duplicate"]
    assert [status["duplicate_of"] for status in found[:2]] == [None, 0]
    assert set(states[2:]) <= {"finished", "diverged"}
    assert "finished" in states[2:]
    assert not list((folder / "1").glob("events*"))
    for job in plan["jobs"][2:]:
        assert hparams(folder / str(job["number"])) == job["swept"]


def test_a_search_prints_a_command_that_repeats_the_best_job(tmp_path: Path) -> None:
    """The jobs are runs of train.py, and the printed command runs."""
    arguments = (f"data.path={text_file(tmp_path)}", *SMALL, "steps=2", "evaluate_every=1", "clip=norm")
    search = ("sweep.method=optuna", "clip.max=tag(log,interval(0.1,10))", "sweep.trials=2", "sweep.jobs=2")
    done = programs.run(ROOT / "train.py", "-m", *search, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 jobs: 2 finished" in done.stdout
    (best,) = re.findall(r"^best: job \d with [\d.]+: python train\.py (.*)$", done.stdout, re.MULTILINE)
    (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
    assert len(list(folder.glob("*/checkpoints/step_2.pt"))) == 2
    assert (folder / "study.log").is_file()
    assert programs.run(ROOT / "train.py", *best.split(), cwd=tmp_path).returncode == 0


def hparams(run: Path) -> dict[str, str | float]:
    """The swept keys and their values in the HParams of a run."""
    (path,) = run.glob("events*")
    for event in EventFileLoader(str(path)).Load():
        for value in event.summary.value:
            if value.tag == "_hparams_/session_start_info":
                data = plugin_data_pb2.HParamsPluginData.FromString(value.metadata.plugin_data.content)
                hparams = data.session_start_info.hparams
                return {key: value.string_value or value.number_value for key, value in hparams.items()}
    raise AssertionError(f"{run}: no HParams")
