"""Sweeps run: every job apart from the others, resumed after any end, in parallel, and shown in TensorBoard."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tensorboard import program as tensorboard

from runner.cli import preflight as cli
from runner.sweeps import parallel, results
from runner.sweeps.results import Job
from tests import programs
from tests.support import ROOT, program
from tests.trainer.support import SMALL, text_file
from trainer.project import PROJECT

# What the process that forks a sweep's jobs imports first. BROKEN: seed 1 has a bug, seed 2 is killed, and each notes
# its GPU. SLOW: seed 2 takes a fifth of a second a step.
SITE = 'import sys\nif "forkserver" in str(sys.orig_argv):\n    import patched\n'
PATCHED = """
import os, signal, time
import trainer.loop
build, take_step = trainer.loop.build, trainer.loop.take_step
def broken(config):
    with open(os.path.join(os.environ["BROKEN"], f"{config.seed}"), "w") as file:
        file.write(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    if config.seed == 1: raise RuntimeError("a bug")
    if config.seed == 2: os.kill(os.getpid(), signal.SIGKILL)
    return build(config)
def slow(session, *arguments, **more):
    time.sleep(0.2 * (session.config.seed == 2))
    return take_step(session, *arguments, **more)
if "BROKEN" in os.environ: trainer.loop.build = broken
if "SLOW" in os.environ: trainer.loop.take_step = slow
"""


def statuses(folder: Path, count: int) -> list[dict[str, Any]]:
    return [json.loads((folder / str(number) / "status.json").read_text()) for number in range(count)]


def train(here: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return programs.run(ROOT / "train.py", *arguments, cwd=here, env=os.environ | environment)


def site(here: Path, name: str) -> dict[str, str]:
    """The environment in which the jobs are broken or slow."""
    (here / "sitecustomize.py").write_text(SITE)
    (here / "patched.py").write_text(PATCHED)
    return {"PYTHONPATH": str(here), name: str(here)}


def test_no_job_takes_another_with_it_and_resume_mends(tmp_path: Path) -> None:
    """Two jobs have a bug, two are killed, two diverge, two finish, two are duplicates; later the bugs are gone."""
    files = tmp_path / "conf" / "experiment"
    files.mkdir(parents=True)
    for name, rate in (("calm", "0.5"), ("wild", "1e9")):
        (files / f"{name}.yaml").write_text(f"# @package _global_\noptimizer:\n  lr: {rate}\nclip:\n  max: 1e12\n")
    done = train(
        tmp_path, "-m", "--config-dir=conf", "seed=1,2,3,4,3", "experiment=calm,wild",
        f"data.path={text_file(tmp_path)}", *SMALL, "steps=8", **site(tmp_path, "BROKEN"),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    sweep = (tmp_path / "outputs" / "latest").resolve()
    before = statuses(sweep, 10)
    assert [status["state"] for status in before] == (["failed"] * 4 + ["finished", "diverged"] * 2 + ["duplicate"] * 2)
    assert [status["reason"] for status in before[:4]] == ["RuntimeError: a bug"] * 2 + ["killed by SIGKILL"] * 2
    assert "RuntimeError: a bug" in (sweep / "0" / "train.log").read_text()
    check_table(done.stdout, sweep, before)
    check_hparams(sweep, before)

    listed = train(tmp_path, "sweep.resume=outputs/latest", "sweep.dry_run=true")
    assert listed.stdout.splitlines()[-1] == "10 jobs, of which 4 would run", listed.stderr
    refused = train(tmp_path, "sweep.resume=outputs/latest", "seed=1")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "seed=1: a sweep is resumed with the arguments that" in refused.stderr
    wild = (files / "wild.yaml").read_text()
    (files / "wild.yaml").write_text(wild.replace("1e9", "1e8"))
    changed = train(tmp_path, "sweep.resume=outputs/latest")
    assert (changed.returncode, changed.stderr.count("\n")) == (2, 1)
    assert "has changed since it was planned" in changed.stderr
    assert statuses(sweep, 10) == before
    (files / "wild.yaml").write_text(wild)
    done = train(tmp_path, "sweep.resume=outputs/latest", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert done.returncode == 0, done.stdout + done.stderr
    after = statuses(sweep, 10)
    assert [status["state"] for status in after[:4]] == ["finished", "diverged"] * 2
    assert after[4:8] == before[4:8]
    assert (tmp_path / "outputs" / "latest").resolve() == sweep


def check_table(output: str, sweep: Path, found: list[dict[str, Any]]) -> None:
    """Every job with how it ended and where its log is; the counts; what to type next."""
    table = output[output.rindex("\njob  state") + 1 :].splitlines()
    shown = sweep.relative_to(sweep.parents[2])
    for number, (row, status) in enumerate(zip(table[1:], found, strict=False)):
        assert row.split()[:2] == [str(number), status["state"]]
        assert row.endswith(f"{shown}/{number}/train.log") == (status["state"] != "duplicate")
        assert (sweep / str(number) / "train.log").is_file() == (status["state"] != "duplicate")
        if status["objective"] is not None:
            assert f"{status['objective']:.4f}" in row
    assert "seed=3 experiment=calm" in table[5]
    assert "job 3 failed: killed by SIGKILL" in table
    assert table[-2] == "10 jobs: 4 failed, 2 finished, 2 diverged, 2 duplicate"
    assert table[-1] == f"sweep: {shown}; what is left: python train.py sweep.resume={shown}"


def check_hparams(sweep: Path, status: list[dict[str, Any]]) -> None:
    """TensorBoard's own answer: every swept key and the objective of every run that began."""
    board = tensorboard.TensorBoard()
    board.configure(argv=["tensorboard", "--logdir", str(sweep), "--port", "0", "--load_fast=false"])
    server = board.launch()
    experiment = ask(server, "experiment", {})
    assert {info["name"] for info in experiment["hparamInfos"]} == {"seed", "experiment"}
    question = {"startIndex": 0, "sliceSize": 100, "allowedStatuses": ["STATUS_SUCCESS", "STATUS_FAILURE"],
                "colParams": [{"metric": {"tag": "best/objective"}, "order": "ORDER_UNSPECIFIED"}]}  # fmt: skip
    found = {}
    for group in ask(server, "session_groups", question)["sessionGroups"]:
        (session,) = group["sessions"]
        metrics = {each["name"]["tag"]: each["value"] for each in session.get("metricValues", [])}
        found[session["name"]] = (group["hparams"], metrics.get("best/objective"), session["status"])
    assert set(found) == {"4", "5", "6", "7"}
    for name, (hparams, objective, ended) in found.items():
        number = int(name)
        assert hparams == {"seed": 3 if number < 6 else 4, "experiment": ["calm", "wild"][number % 2]}
        expected = status[number]["objective"]
        assert objective == (None if expected is None else pytest.approx(expected, rel=1e-6))
        assert ended == {"finished": "STATUS_SUCCESS", "diverged": "STATUS_FAILURE"}[status[number]["state"]]
    assert found["4"][1] is not None


def ask(server: str, path: str, question: dict[str, Any]) -> Any:
    request = urllib.request.Request(f"{server}data/plugin/hparams/{path}", json.dumps(question).encode())
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@pytest.mark.parametrize(
    ("launcher", "number", "code"),
    [("basic", signal.SIGKILL, -9), ("basic", signal.SIGINT, 130), ("joblib", signal.SIGKILL, -9)],
)
def test_a_sweep_that_was_ended_is_resumed(launcher: str, number: signal.Signals, code: int, tmp_path: Path) -> None:
    """Job 0 has finished, job 1 is in the midst of its steps, and job 2 has not begun."""
    arguments = [f"data.path={text_file(tmp_path)}", *SMALL, "hydra.sweep.dir=swept", "seed=1,2,3"]
    arguments = [each for each in arguments if each not in ("steps=6", "evaluate_every=6")]
    arguments += ["steps=200", "evaluate_every=200"]
    arguments += [f"hydra/launcher={launcher}"] + ["hydra.launcher.n_jobs=1"] * (launcher == "joblib")
    environment = os.environ | site(tmp_path, "SLOW")
    sweep = programs.Program(ROOT / "train.py", "-m", *arguments, cwd=tmp_path, env=environment)
    folder = tmp_path / "swept"
    wait_for(lambda: list((folder / "1").glob("events*")))
    busy = train(tmp_path, "sweep.resume=swept")
    assert (busy.returncode, busy.stderr) == (2, "error: swept: another process is running this sweep\n")
    sweep.send_signal(number)
    _, errors = sweep.communicate(timeout=60)
    assert (sweep.returncode, "Traceback" in errors) == (code, False), errors
    started = json.loads((folder / "0" / "status.json").read_text())["started"]
    pid = json.loads((folder / "1" / "status.json").read_text())["pid"]
    wait_for(lambda: not Path(f"/proc/{pid}").exists())  # it ends after its step
    assert not (folder / "2").exists()
    done = train(tmp_path, "sweep.resume=swept")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [(each["state"], each["step"]) for each in statuses(folder, 3)] == [("finished", 200)] * 3
    assert json.loads((folder / "0" / "status.json").read_text())["started"] == started
    assert len(list((folder / "1").glob("events*"))) == 1, "nothing is left of the half run"


def wait_for(what: Any) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_launchers(launcher: str, tmp_path: Path) -> None:
    """A killed job and a broken one take no other with them; one GPU a job by its number."""
    done = train(
        tmp_path, "-m", f"hydra/launcher={launcher}", "seed=1,2,3,4", f"data.path={text_file(tmp_path)}", *SMALL,
        "hydra.sweep.dir=swept", "device=cpu", **site(tmp_path, "BROKEN"), CUDA_VISIBLE_DEVICES="7,9",
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert [each["state"] for each in statuses(tmp_path / "swept", 4)] == ["failed", "failed", "finished", "finished"]
    assert "job 1 failed: killed by SIGKILL" in done.stdout
    assert "validation" not in done.stdout + done.stderr, "what jobs say at the same time is in their logs"
    assert "validation" in (tmp_path / "swept" / "2" / "train.log").read_text()
    gpus = [(tmp_path / str(seed)).read_text() for seed in (1, 2, 3, 4)]
    assert gpus == (["7", "9", "7", "9"] if launcher == "joblib" else [""] * 4)  # gpus_per_node hides them


def test_the_slurm_preset_composes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["-m", "hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu", "seed=1,2", "device.threads=3"]
    sweep = cli.preflight(PROJECT, ["train.py", *arguments])
    assert sweep is not None
    launcher = sweep.master.hydra.launcher
    assert (launcher.partition, launcher.cpus_per_task, launcher.timeout_min) == ("gpu", 3, 1440)
    assert "submitit" in launcher.submitit_folder


def test_an_absent_plug_in_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "hydra_plugins.hydra_joblib_launcher.config", None)
    with pytest.raises(SystemExit) as end:
        cli.preflight(PROJECT, ["train.py", "-m", "hydra/launcher=joblib", "seed=1,2"])
    assert end.value.code == 2
    line = 'hydra/launcher=joblib needs hydra-joblib-launcher: pip install -c constraints.txt -e ".[launchers]"'
    assert capsys.readouterr().err == f"error: {line}\n"


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
    from runner.runs.run import STATUS, Run

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
