"""scripts/status.py and scripts/export.py."""

import json
import re
import time
from pathlib import Path

import pytest
import torch

from runner.errors import UserError
from runner.runs import checkpoint, lock
from runner.runs.status import actual_state, change_status
from scripts import export, status
from tests.programs import Program
from tests.support import ROOT
from tests.trainer.support import SMALL, text_file, train_small
from trainer.project import compose
from trainer.run import execute_in_folder

pytestmark = pytest.mark.long


def test_status_of_a_run_that_has_only_its_lock(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock.hold(tmp_path)
    status.main([str(tmp_path)])
    lock.release(tmp_path)
    assert capsys.readouterr().out == f"{tmp_path}: running, and has written no status.json yet\n"


def test_status_distinguishes_a_killed_run_from_a_running_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    arguments = [f"data.path={text_file(tmp_path)}", *SMALL, "steps=1000000"]
    with Program(ROOT / "train.py", *arguments, f"hydra.run.dir={folder}", cwd=tmp_path) as program:
        started = ""
        while not started or started.endswith(": running, and has written no status.json yet\n"):
            assert program.poll() is None
            if actual_state(folder) == "running":
                status.main([str(folder)])
                started = output = capsys.readouterr().out
            time.sleep(0.05)
        assert re.match(rf"{folder}: running at step \d+ of 1000000, process {program.pid}", output)
        program.kill()
        program.wait()
    assert json.loads((folder / "status.json").read_text())["state"] == "running"
    assert actual_state(folder) == "killed"
    status.main([str(folder)])
    output = capsys.readouterr().out
    assert f"process {program.pid}, last heartbeat" in output
    assert output.endswith(f"; python train.py resume={folder}\n")


def test_status_refuses_a_folder_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        status.main([str(tmp_path)])
    assert end.value.code == 2
    assert capsys.readouterr().err.endswith("not the folder of a run; it has no status.json\n")
    assert actual_state(tmp_path) is None
    (tmp_path / "status.json").write_text("{")
    assert actual_state(tmp_path) is None


def test_the_status_of_a_duplicate_names_the_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_status(tmp_path / "3", state="duplicate", duplicate_of=1)
    status.main([str(tmp_path / "3")])
    assert capsys.readouterr().out == f"{tmp_path}/3: duplicate of job 1\n"


def test_export_writes_the_weights_which_init_from_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    safetensors = pytest.importorskip("safetensors")
    train_small(tmp_path)
    capsys.readouterr()
    export.main([str(tmp_path / "run")])
    path = tmp_path / "run" / "model.safetensors"
    assert capsys.readouterr().out == f"{path}\n"
    weights = checkpoint.load(tmp_path / "run" / "checkpoints" / "best.pt")["model"]
    with safetensors.safe_open(path, "pt") as file:
        assert set(file.keys()) == set(weights)
        assert all(torch.equal(file.get_tensor(name), weights[name]) for name in weights)
        assert file.metadata()["step"] == "6"
    later = (f"init_from={path}", "steps=1", "evaluate_every=1", "optimizer.lr=1e-12")
    config = compose(f"data.path={text_file(tmp_path)}", *SMALL, *later)
    execute_in_folder(config, tmp_path / "tuned")
    tuned = checkpoint.load(tmp_path / "tuned" / "checkpoints" / "step_1.pt")["model"]
    assert all(torch.allclose(tuned[name], weights[name], rtol=0, atol=1e-9) for name in weights)


def test_an_export_to_an_unwritable_path_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The error is one line, and a device or a folder is not replaced."""
    pytest.importorskip("safetensors")
    train_small(tmp_path)
    capsys.readouterr()
    for to, reason in ((tmp_path / "nope" / "x", "No such file or directory"), (tmp_path, "not a file"),
                    (Path("/dev/null"), "not a file")):  # fmt: skip
        with pytest.raises(SystemExit) as end:
            export.main([str(tmp_path / "run"), "--to", str(to)])
        assert (end.value.code, capsys.readouterr().err) == (2, f"error: {to}: {reason}\n")
    assert Path("/dev/null").is_char_device()


def test_an_export_without_safetensors_names_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_small(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "safetensors.torch", None)
    with pytest.raises(UserError, match=r'pip install -c constraints\.txt -e "\.\[export\]"'):
        export.export(tmp_path / "run")
