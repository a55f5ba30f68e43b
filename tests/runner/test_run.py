"""The contract of a run's folder, its status, its exit status, and its checkpoints."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.errors import UserError
from runner.runs import checkpoint
from runner.runs.run import Diverged, Interrupted, Run, update_latest_symlink
from scripts import evaluate
from tests.support import ENV, ROOT, program
from tests.trainer.support import text_file, train

QUICK = ("model.hidden=8", "model.embedding=4", "data.batch_size=4", "data.window=16", "data.sample=30", "steps=6")
FIELDS = {"state", "step", "steps", "objective", "reason", "started", "updated", "pid", "host", "duplicate_of"}


def status(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "status.json").read_text())
    assert set(found) == FIELDS
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run of the program itself, and what it printed."""
    here = tmp_path_factory.mktemp("here")
    done = program(f"data.path={text_file(here)}", *QUICK, cwd=here)
    assert done.returncode == 0, done.stderr
    assert "it/s" not in done.stderr, "no progress bar in a pipe"
    return here, done.stdout


def test_the_folder(finished: tuple[Path, str]) -> None:
    here, _ = finished
    (folder,) = (here / "outputs" / "runs").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_[0-9a-f]{6}", folder.name)
    names = {path.name for path in folder.iterdir()}
    assert names - {path.name for path in folder.glob("events.out.tfevents.*")} == {
        ".hydra", ".lock", "config.yaml", "train.log", "checkpoints", "status.json"}  # fmt: skip
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"step_6.pt", "best.pt"}
    assert (here / "outputs" / "latest").resolve() == folder.resolve()
    assert "state        finished" in (folder / "train.log").read_text()


def test_status_of_a_finished_run(finished: tuple[Path, str]) -> None:
    found = status(finished[0] / "outputs" / "latest")
    assert (found["state"], found["step"], found["steps"], found["reason"]) == ("finished", 6, 6, None)
    assert 0 < found["objective"] < 10
    assert found["started"] <= found["updated"]


def test_the_summary(finished: tuple[Path, str]) -> None:
    _, text = finished
    for pattern in (
        r"^state +finished \(step 6 of 6\)$",
        r"^loss +first [\d.]+, last [\d.]+, best validation [\d.]+ at step 6$",
        r"^clipped +[\d.]+ % of the steps$",
        r"^norm before +median [\d.]+, 95th percentile [\d.]+$",
        r"^sample +\S",
        r"^run +outputs/runs/\S+$",
        r"^TensorBoard +tensorboard --logdir outputs/runs/\S+$",
    ):
        assert re.search(pattern, text, re.MULTILINE), (pattern, text)


def test_two_runs_of_one_second_have_two_folders(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), f"data.path={text_file(tmp_path)}", *QUICK, "steps=1"]
    runs = [subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [run.wait(timeout=120) for run in runs] == [0, 0, 0]
    assert len(list((tmp_path / "outputs" / "runs").iterdir())) == 3


def test_divergence_is_exit_status_3(tmp_path: Path) -> None:
    done = program(
        f"data.path={text_file(tmp_path)}", *QUICK, "steps=60", "optimizer.lr=1e4", "clip=none", cwd=tmp_path
    )
    assert done.returncode == 3, done.stdout + done.stderr
    found = status(tmp_path / "outputs" / "latest")
    assert found["state"] == "diverged"
    assert "step" in found["reason"]
    assert "Traceback" not in done.stderr


def test_a_bug_is_exit_status_1_with_its_traceback(tmp_path: Path) -> None:
    code = (
        "import sys, runpy, trainer.loop\n"
        "def broken(*arguments): raise RuntimeError('a bug')\n"
        "trainer.loop.train = broken\n"
        f"sys.argv = ['train.py', 'debug=fast']\nrunpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENV, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "RuntimeError: a bug" in done.stderr
    assert status(tmp_path / "outputs" / "latest")["reason"] == "RuntimeError: a bug"


# -- the status file


def test_endings(tmp_path: Path) -> None:
    for error, state, code in ((None, "finished", 0), (Diverged("why"), "diverged", 3)):
        run = Run(tmp_path, 5)
        with run.recorded():
            if error:
                raise error
        assert (run.outcome().state, run.outcome().code) == (state, code)
    run = Run(tmp_path, 5)
    with run.recorded():
        os.kill(os.getpid(), signal.SIGTERM)
        assert run.stop == signal.SIGTERM
        raise Interrupted(signal.SIGTERM)
    assert (run.outcome().state, run.outcome().code) == ("interrupted", 143)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    run = Run(tmp_path, 5)
    with pytest.raises(ZeroDivisionError), run.recorded():
        _ = 1 / 0
    assert status(tmp_path)["reason"] == "ZeroDivisionError: division by zero"


def test_a_second_sigint_ends_at_once(tmp_path: Path) -> None:
    run = Run(tmp_path, 5)

    def interrupted() -> None:
        with run.recorded():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert status(tmp_path)["state"] == "interrupted"
    assert run.outcome().code == 130


def test_the_heartbeat_is_written_at_most_once_a_second(tmp_path: Path) -> None:
    run = Run(tmp_path, 5)
    for step in range(100):
        run.heartbeat(step)
    assert status(tmp_path)["step"] == 0
    run._written -= 2
    run.heartbeat(100)
    assert status(tmp_path)["step"] == 100


def test_latest_is_moved_and_never_leaves_outputs(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "outputs" / "runs" / name).mkdir(parents=True)
        update_latest_symlink(tmp_path / "outputs" / "runs" / name)
        assert (tmp_path / "outputs" / "latest").resolve().name == name
    (tmp_path / "elsewhere").mkdir()
    update_latest_symlink(tmp_path / "elsewhere")
    assert not list(tmp_path.glob("latest"))


# -- checkpoints


def test_checkpoints_last_and_best(tmp_path: Path) -> None:
    train(tmp_path, "steps=9", "checkpoint.every=3", "checkpoint.keep=2", "evaluate_every=3")
    assert [path.name for path in checkpoint.steps(tmp_path / "run")] == ["step_6.pt", "step_9.pt"]
    best = checkpoint.load(checkpoint.find(tmp_path / "run", "best"))
    assert best["best"] == status(tmp_path / "run")["objective"]
    last = checkpoint.load(checkpoint.find(tmp_path / "run", "last"))
    assert last["step"] == 9
    assert set(last) == {"model", "optimizer", "clipper", "scaler", "watch", "doctor", "history", "random", "step",
                         "detailed", "best", "best_step", "states", "data", "config", "events", "place"}  # fmt: skip
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))


def test_a_crash_while_writing_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Part:
        def state_dict(self) -> dict[str, Any]:
            return {"value": torch.ones(3)}

        def load_state_dict(self, state_dict: dict[str, Any], /) -> None: ...

    checkpoint.save_best(tmp_path, {"part": Part()}, {"step": 1})
    whole = (tmp_path / "checkpoints" / "best.pt").read_bytes()

    def crash(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save_best(tmp_path, {"part": Part()}, {"step": 2})
    assert (tmp_path / "checkpoints" / "best.pt").read_bytes() == whole
    assert checkpoint.load(tmp_path / "checkpoints" / "best.pt")["step"] == 1


def test_a_checkpoint_is_on_the_disk_before_the_one_it_replaces_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File, name and folder are synced, the folder's own name too, and only then is an old one deleted."""
    calls: list[str] = []

    def noting(where: Any, name: str, shown: Callable[..., str]) -> None:
        real = getattr(where, name)

        def call(*arguments: Any, **named: Any) -> Any:
            calls.append(f"{name} {shown(*arguments)}")
            return real(*arguments, **named)

        monkeypatch.setattr(where, name, call)

    noting(os, "fsync", lambda descriptor: Path(f"/proc/self/fd/{descriptor}").readlink().name)
    noting(Path, "replace", lambda path, to: f"{path.name} {to.name}")
    noting(Path, "unlink", lambda path, **named: path.name)
    for step in (1, 2):
        checkpoint.save(tmp_path, {}, {"step": step}, keep=1)
    writes = [
        [f"fsync .step_{n}.pt.part", f"replace .step_{n}.pt.part step_{n}.pt", "fsync checkpoints"] for n in (1, 2)
    ]
    assert calls == [f"fsync {tmp_path.name}", *writes[0], *writes[1], "unlink step_1.pt"]


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("hello")
    torch.save({"model": 1}, tmp_path / "foreign.pt")
    torch.save({"code": Path("x")}, tmp_path / "pickle.pt")
    for name in ("text.pt", "foreign.pt", "pickle.pt", "missing.pt"):
        with pytest.raises(UserError, match=name):
            checkpoint.load(tmp_path / name)
    with pytest.raises(UserError, match="has no checkpoint"):
        checkpoint.find(tmp_path, "last")


# -- scripts/evaluate.py


def test_evaluate(
    finished: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here, _ = finished
    monkeypatch.chdir(here)
    evaluate.main(["outputs/latest"])
    best = capsys.readouterr().out
    loss = float(re.findall(r"^step 6: loss ([\d.]+)  accuracy [\d.]+$", best, re.MULTILINE)[0])
    assert loss == pytest.approx(status(here / "outputs" / "latest")["objective"], abs=1e-4)
    evaluate.main(["outputs/latest", "--checkpoint", "last"])
    assert capsys.readouterr().out == best  # of six steps, one evaluation, the last


def test_evaluate_as_a_program(finished: tuple[Path, str]) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "evaluate.py"), "nowhere"]
    done = subprocess.run(command, cwd=finished[0], capture_output=True, text=True, check=False)
    line = "error: nowhere: not the folder of a run; it has no config.yaml\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)


def test_evaluate_refuses_in_one_line(
    finished: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished[0] / "outputs" / "latest", tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    other = tmp_path / "other.txt"
    other.write_text("another text altogether " * 200)
    saved = config.read_text()
    for change, arguments, line in (
        (("", ""), ["--checkpoint", "nope.pt"], "nope.pt: no such checkpoint"),
        ((str(finished[0] / "small.txt"), str(other)), [], "the data has changed since this run"),
        (("name: rnn", "name: gone"), [], "model=gone: no such option; there are deep_linear, linear_net"),
        (("hidden: 8", "hidden: 0"), [], "model.hidden=0: must be a whole number of at least 1"),
    ):
        config.write_text(saved.replace(*change) if change[0] else saved)
        with pytest.raises(SystemExit) as end:
            evaluate.main([str(tmp_path / "run"), *arguments])
        error = capsys.readouterr().err
        assert (end.value.code, error.count("\n")) == (2, 1)
        assert line in error
