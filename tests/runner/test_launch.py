"""Sweeps run: every job apart from the others, resumed after any end, in parallel."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner.runs.run import STATUS, Run
from runner.sweeps import parallel, results
from runner.sweeps.results import Job
from tests import programs
from tests.runner.support import COUNTER, program, refused, status, statuses, wait_for

INCIDENT = "incident=incident_${seed}"  # a file for each seed says what happens in its job


def test_no_job_takes_another_with_it_and_resume_runs_what_is_left(tmp_path: Path) -> None:
    """Two jobs have a bug, two are killed, two diverge, two finish, two are duplicates; later the bugs are gone."""
    files = tmp_path / "conf" / "experiment"
    files.mkdir(parents=True)
    for name, rate in (("steady", "0.05"), ("steep", "1e9")):
        (files / f"{name}.yaml").write_text(f"# @package _global_\nlr: {rate}\nclip:\n  max: 1e12\n")
    for seed, word in ((1, "bug"), (2, "kill")):
        (tmp_path / f"incident_{seed}").write_text(f"{word} 0")
    grid = ("seed=1,2,3,4,3", "experiment=steady,steep")
    done = program("-m", "--config-dir=conf", *grid, INCIDENT, cwd=tmp_path, script=COUNTER)
    assert done.returncode == 1, done.stderr
    sweep = (tmp_path / "outputs" / "latest").resolve()
    before = statuses(sweep, 10)
    assert [each["state"] for each in before] == (["failed"] * 4 + ["finished", "diverged"] * 2 + ["duplicate"] * 2)
    assert [each["duplicate_of"] for each in before] == [None] * 8 + [4, 5]
    assert [each["reason"] for each in before[:4]] == ["RuntimeError: a bug"] * 2 + ["killed by SIGKILL"] * 2
    assert "RuntimeError: a bug" in (sweep / "0" / "train.log").read_text()
    check_table(done.stdout, sweep, before)

    for seed in (1, 2):
        (tmp_path / f"incident_{seed}").unlink()
    listed = program("sweep.resume=outputs/latest", "sweep.dry_run=true", cwd=tmp_path, script=COUNTER)
    assert listed.stdout.splitlines()[-1] == "10 jobs, of which 4 would run", listed.stderr
    wrong = program("sweep.resume=outputs/latest", "seed=1", cwd=tmp_path, script=COUNTER)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "seed=1: a sweep is resumed with the arguments that" in wrong.stderr
    steep = (files / "steep.yaml").read_text()
    (files / "steep.yaml").write_text(steep.replace("1e9", "1e8"))
    changed = program("sweep.resume=outputs/latest", cwd=tmp_path, script=COUNTER)
    assert (changed.returncode, changed.stderr.count("\n")) == (2, 1)
    assert "has changed since it was planned" in changed.stderr
    assert statuses(sweep, 10) == before
    (files / "steep.yaml").write_text(steep)
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=1")
    done = program("sweep.resume=outputs/latest", *launcher, cwd=tmp_path, script=COUNTER)
    assert done.returncode == 0, done.stdout + done.stderr
    after = statuses(sweep, 10)
    assert [each["state"] for each in after[:4]] == ["finished", "diverged"] * 2
    assert after[4:8] == before[4:8]
    assert (tmp_path / "outputs" / "latest").resolve() == sweep


def check_table(output: str, sweep: Path, found: list[dict[str, Any]]) -> None:
    """Every job with how it ended and where its log is; the counts; what to type next."""
    table = output[output.rindex("\njob  state") + 1 :].splitlines()
    shown = sweep.relative_to(sweep.parents[2])
    for number, (row, job) in enumerate(zip(table[1:], found, strict=False)):
        assert row.split()[:2] == [str(number), job["state"]]
        assert row.endswith(f"{shown}/{number}/train.log") == (job["state"] != "duplicate")
        assert (sweep / str(number) / "train.log").is_file() == (job["state"] != "duplicate")
        if job["objective"] is not None:
            assert f"{job['objective']:.4f}" in row
    assert "seed=3 experiment=steady" in table[5]
    assert "job 3 failed: killed by SIGKILL" in table
    assert table[-2] == "10 jobs: 4 failed, 2 finished, 2 diverged, 2 duplicate"
    assert table[-1] == f"sweep: {shown}; what is left: python train.py sweep.resume={shown}"


@pytest.mark.parametrize(
    ("launcher", "number", "code"),
    [("basic", signal.SIGKILL, -9), ("basic", signal.SIGINT, 130), ("joblib", signal.SIGKILL, -9)],
)
def test_a_sweep_that_was_ended_is_resumed(launcher: str, number: signal.Signals, code: int, tmp_path: Path) -> None:
    """Job 0 has finished, job 1 is in the midst of its steps, and job 2 has not begun."""
    (tmp_path / "incident_2").write_text("wait 4")
    arguments = ["hydra.sweep.dir=swept", "seed=1,2,3", INCIDENT, f"hydra/launcher={launcher}"]
    arguments += ["hydra.launcher.n_jobs=1"] * (launcher == "joblib")
    folder = tmp_path / "swept"
    with programs.Program(COUNTER, "-m", *arguments, cwd=tmp_path) as sweep:
        wait_for((tmp_path / "incident_2.reached").exists)
        if number == signal.SIGINT:
            busy = program("sweep.resume=swept", cwd=tmp_path, script=COUNTER)
            assert (busy.returncode, busy.stderr) == (2, "error: swept: another process is running this sweep\n")
        sweep.send_signal(number)
        _, errors = sweep.communicate(timeout=60)
    assert (sweep.returncode, "Traceback" in errors) == (code, False), errors
    first, second = (status(folder / name) for name in "01")
    wait_for(lambda: not Path(f"/proc/{second['pid']}").exists())  # it ends after its step
    assert status(folder / "1")["state"] == "interrupted"
    assert not (folder / "2").exists()
    (folder / "1" / "half").touch()
    (tmp_path / "incident_2").unlink()
    done = program("sweep.resume=swept", cwd=tmp_path, script=COUNTER)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [(each["state"], each["step"]) for each in statuses(folder, 3)] == [("finished", 6)] * 3
    assert status(folder / "0")["started"] == first["started"]
    assert not (folder / "1" / "half").exists(), "nothing is left of the half run"


def test_a_job_that_cannot_be_built_ends_the_sweep(tmp_path: Path) -> None:
    """The next one would likely be refused as well."""
    (tmp_path / "start_1").touch()
    arguments = ("-m", "seed=1,2,3", "initial=start_${seed}", "hydra.sweep.dir=swept")
    done = program(*arguments, cwd=tmp_path, script=COUNTER)
    assert done.returncode == 1, done.stdout + done.stderr
    assert [each["state"] for each in statuses(tmp_path / "swept", 2)] == ["finished", "rejected"]
    assert not (tmp_path / "swept" / "2").exists()
    reason = f"initial={tmp_path / 'start_2'}: no such file"
    assert f"job 1 rejected: {reason}" in done.stdout
    assert f"error: {reason}" in (tmp_path / "swept" / "1" / "train.log").read_text()
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_launchers(launcher: str, tmp_path: Path) -> None:
    """A killed job and a broken one take no other with them; one GPU a job by its number."""
    for seed, word in ((1, "bug"), (2, "kill")):
        (tmp_path / f"incident_{seed}").write_text(f"{word} 3")
    # A real start: in a forked program, multiprocessing waits for joblib's workers before they are asked to end.
    arguments = ("-m", f"hydra/launcher={launcher}", "seed=1,2,3", INCIDENT, "hydra.sweep.dir=swept")
    done = subprocess.run(
        [sys.executable, COUNTER, *arguments], cwd=tmp_path, env=os.environ | {"CUDA_VISIBLE_DEVICES": "7,9"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    swept = tmp_path / "swept"
    assert [each["state"] for each in statuses(swept, 3)] == ["failed", "failed", "finished"]
    assert "job 1 failed: killed by SIGKILL" in done.stdout
    assert "visible GPUs" not in done.stdout + done.stderr, "what jobs say at the same time is in their logs"
    gpus = ["7", "9", "7"] if launcher == "joblib" else [""] * 3  # gpus_per_node hides them
    for number, gpu in enumerate(gpus):
        assert f"visible GPUs: {gpu}\n" in (swept / str(number) / "train.log").read_text()


def test_an_absent_plug_in_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "hydra_plugins.hydra_joblib_launcher.config", None)
    line = 'hydra/launcher=joblib needs hydra-joblib-launcher: pip install -c constraints.txt -e ".[launchers]"'
    assert refused(["-m", "hydra/launcher=joblib", "seed=1,2"], capsys) == line


def test_jobs_do_not_fight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(parallel, "visible_gpus", list)
    assert [parallel.at_once("auto", threads) for threads in (1, 2, 3, 16, None)] == [8, 4, 2, 1, 1]
    monkeypatch.setattr(parallel, "visible_gpus", lambda: ["0", "1"])
    assert (parallel.at_once("cuda", None), parallel.at_once("auto", 1), parallel.at_once("cpu", 1)) == (2, 2, 8)


def test_a_dry_run_makes_nothing(tmp_path: Path) -> None:
    done = program("-m", "clip=none,norm", "clip.max=0.5,1", "sweep.dry_run=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[1:4] for line in lines[1:5]] == [
        ["yes", "clip=none", "clip.max=0.5"], ["no,", "duplicate", "of"], ["yes", "clip=norm", "clip.max=0.5"],
        ["yes", "clip=norm", "clip.max=1"]]  # fmt: skip
    assert all("outputs/sweeps/20" in line and line.endswith(f"/{number}") for number, line in enumerate(lines[1:5]))
    assert lines[-1] == "4 jobs, of which 3 would run"
    assert list(tmp_path.iterdir()) == []


def test_a_heartbeat_tells_the_living_from_the_dead(tmp_path: Path) -> None:
    run = Run(tmp_path, 10)
    job = Job(0, [], "")
    assert results.read_one(tmp_path, job).state == "running"
    results.mark(tmp_path, pid=2**22 + 1)
    assert results.read_one(tmp_path, job).state == "killed"
    results.mark(tmp_path, host="elsewhere")
    assert results.read_one(tmp_path, job).state == "running"
    results.mark(tmp_path, updated="2020-01-01T00:00:00+00:00")
    assert results.read_one(tmp_path, job).state == "killed"
    run.update(state="finished")
    assert results.read_one(tmp_path, job).state == "finished"
    for damaged in ("", "{", "[]", '{"state": "finished"}', "\0\xff"):
        (tmp_path / STATUS).write_text(damaged)
        assert results.read_one(tmp_path, job).state == "missing"
    assert results.read_one(tmp_path / "nowhere", job).state == "missing"
