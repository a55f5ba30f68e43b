"""What long runs cost, in small; and the scripts about runs and their weights."""

import errno
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from evidence import long_runs
from evidence.faults import goes_on, kill, trains
from runner.errors import UserError
from runner.runs import checkpoint, lock
from runner.runs.run import Run, actual_state
from scripts import export, status
from tests.trainer.support import text_file, train
from trainer import loop
from trainer.project import compose


def test_the_page_of_long_runs(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    long_runs.main(["--steps", "2000", "--page", str(page), "steps=30", "checkpoint.every=10"])
    written = page.read_text()
    shown = (Path(long_runs.PAGE)).read_text()
    for text in (written, shown):
        assert "| 1,000 |" in text
        assert int(text.split(" bytes a step")[0].split()[-1]) <= long_runs.BYTES
    assert "in its 4 checkpoints" in written  # of steps 10, 20, 30, and the best one
    share = float(shown.split("checkpoints,\n")[1].split(" %")[0])
    assert share < 2.0


def test_a_killed_run_is_told_from_a_running_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    process = goes_on(folder, ["data=line", "model=linear_net", "optimizer.lr=0.01", "steps=1000000"])
    assert trains(folder, process)
    assert actual_state(folder) == "running"
    status.main([str(folder)])
    assert re.match(rf"{folder}: running at step \d+ of 1000000, process {process.pid}", capsys.readouterr().out)
    kill(process)
    assert json.loads((folder / "status.json").read_text())["state"] == "running"
    assert actual_state(folder) == "killed"
    status.main([str(folder)])
    said = capsys.readouterr().out
    assert f"process {process.pid}, last heartbeat" in said
    assert said.endswith(f"; python train.py resume={folder}\n")


def test_status_of_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        status.main([str(tmp_path)])
    assert end.value.code == 2
    assert capsys.readouterr().err.endswith("not the folder of a run; it has no status.json\n")
    assert actual_state(tmp_path) is None
    (tmp_path / "status.json").write_text("{")
    assert actual_state(tmp_path) is None


def test_the_lock_is_this_processs_until_the_run_ends(tmp_path: Path) -> None:
    run = Run(tmp_path, 3)
    assert lock.is_held(tmp_path)
    with run.recorded():
        assert lock.is_held(tmp_path)
    assert not lock.is_held(tmp_path)
    lock.hold(tmp_path)
    lock.hold(tmp_path)  # once more is the same
    lock.release(tmp_path)
    assert not lock.is_held(tmp_path)


def test_who_only_asks_for_the_lock_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`status.py` holds it for a moment."""
    lock.hold(tmp_path)
    lock.release(tmp_path)
    code = "import fcntl, sys, time\nfile = open(sys.argv[1])\nfcntl.lockf(file, fcntl.LOCK_SH)\nprint(flush=True)\n"
    asks = [sys.executable, "-c", f"{code}time.sleep(0.05)", str(tmp_path / lock.NAME)]
    with subprocess.Popen(asks, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        lock.hold(tmp_path)
    lock.release(tmp_path)


def test_a_disk_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run trains there, and one that was killed is told by its process."""

    def lockf(*arguments: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.lockf", lockf)
    run = Run(tmp_path, 3)
    lock._held.clear()  # as another process would see it
    assert actual_state(tmp_path) == "running"
    with subprocess.Popen(["true"]) as ended:
        pass
    run.update(pid=ended.pid)
    assert actual_state(tmp_path) == "killed"


def test_export_writes_the_weights_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors import safe_open

    train(tmp_path)
    export.main([str(tmp_path / "run")])
    path = tmp_path / "run" / "model.safetensors"
    assert capsys.readouterr().out == f"{path}\n"
    weights = checkpoint.load(tmp_path / "run" / "checkpoints" / "best.pt")["model"]
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == set(weights)
        assert all(torch.equal(file.get_tensor(name), weights[name]) for name in weights)
        assert file.metadata()["step"] == "6"
    config = compose(f"data.path={text_file(tmp_path)}", "model.hidden=8", "model.embedding=4", "data.batch_size=4",
                     "data.window=16", f"init_from={path}", "steps=1", "optimizer.lr=1e-12")  # fmt: skip
    loop.run_recorded(config, tmp_path / "tuned")
    tuned = checkpoint.load(tmp_path / "tuned" / "checkpoints" / "step_1.pt")["model"]
    assert all(torch.allclose(tuned[name], weights[name], rtol=0, atol=1e-9) for name in weights)


def test_an_export_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, and nothing is put in the place of a device or a folder."""
    train(tmp_path)
    for to, why in ((tmp_path / "nope" / "x", "No such file or directory"), (tmp_path, "not a file"),
                    (Path("/dev/null"), "not a file")):  # fmt: skip
        with pytest.raises(SystemExit) as end:
            export.main([str(tmp_path / "run"), "--to", str(to)])
        assert (end.value.code, capsys.readouterr().err) == (2, f"error: {to}: {why}\n")
    assert Path("/dev/null").is_char_device()


def test_without_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "safetensors.torch", None)
    with pytest.raises(UserError, match=r'pip install -c constraints\.txt -e "\.\[export\]"'):
        export.export(tmp_path / "run")
