"""A run's folder, status, exit status and checkpoints."""

import errno
import os
import re
import resource
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.compose import load
from runner.errors import UserError
from runner.runs import checkpoint, lock
from runner.runs.files import write_atomically
from runner.runs.run import Diverged, Interrupted, Run, update_latest_symlink
from runner.runs.status import actual_state, initial_status, read_status, write_status
from runner.sweeps.results import Job, read_one, table
from tests import programs
from tests.comparison import assert_identical
from tests.runner.support import PROJECT, TRAIN, compose, files, program, real_program, status, train


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run of the program as a user starts it, and what it printed."""
    here = tmp_path_factory.mktemp("here")
    done = real_program("steps=9", "evaluate_every=3", "checkpoint.keep=1", cwd=here)
    assert (done.returncode, done.stderr) == (0, "")
    return here, done.stdout


def test_the_folder(finished: tuple[Path, str]) -> None:
    here, _ = finished
    (folder,) = (here / "outputs" / "runs").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_[0-9a-f]{6}", folder.name)
    names = {path.name for path in folder.iterdir()}
    (events,) = folder.glob("events.out.tfevents.*")
    assert names == {
        ".hydra",
        ".lock",
        "config.yaml",
        "train.log",
        "checkpoints",
        "status.json",
        "metrics.jsonl",
        events.name,
    }
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"step_9.pt", "best.pt"}
    assert (here / "outputs" / "latest").resolve() == folder.resolve()
    assert "state        finished" in (folder / "train.log").read_text()
    assert load(folder, PROJECT) == compose("steps=9", "evaluate_every=3", "checkpoint.keep=1")


def test_status_of_a_finished_run(finished: tuple[Path, str]) -> None:
    folder = finished[0] / "outputs" / "latest"
    found = status(folder)
    assert (found["state"], found["step"], found["steps"], found["reason"]) == ("finished", 9, 9, None)
    assert found["objective"] == checkpoint.load(checkpoint.find(folder, "best"))["best"]
    assert found["started"] <= found["updated"]


def test_the_summary(finished: tuple[Path, str]) -> None:
    _, text = finished
    for pattern in (
        r"^state +finished \(step 9 of 9\)$",
        r"^loss +first [\d.]+, last [\d.]+, best validation [\d.]+ at step \d$",
        r"^clipped +[\d.]+ % of the logged steps$",
        r"^norm before +median [\d.]+, 95th percentile [\d.]+$",
        r"^run +outputs/runs/\S+$",
        r"^TensorBoard +tensorboard --logdir outputs/runs/\S+$",
    ):
        assert re.search(pattern, text, re.MULTILINE), (pattern, text)


def test_runs_started_in_the_same_second_have_two_folders(tmp_path: Path) -> None:
    runs = [programs.Program(TRAIN, cwd=tmp_path) for _ in range(2)]
    assert [run.wait(timeout=120) for run in runs] == [0, 0]
    assert len(list((tmp_path / "outputs" / "runs").iterdir())) == 2


def test_divergence_is_exit_status_3(tmp_path: Path) -> None:
    done = program("experiment=wild", cwd=tmp_path)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    found = status(tmp_path / "outputs" / "latest")
    assert (found["state"], found["reason"]) == ("diverged", "the loss is inf at step 2")


def test_a_bug_is_exit_status_1_with_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "incident").write_text("bug 2")
    done = program("incident=incident", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "RuntimeError: a bug" in done.stderr
    found = status(tmp_path / "outputs" / "latest")
    assert (found["state"], found["reason"]) == ("failed", "RuntimeError: a bug")


def test_paths_are_saved_absolute(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("1.0")
    assert program("initial=one", "hydra.run.dir=run", cwd=tmp_path).returncode == 0
    assert load(tmp_path / "run", PROJECT).initial == str(tmp_path / "one")


# -- errors of building


def test_a_run_that_cannot_be_built_is_one_line_and_leaves_no_folder(tmp_path: Path) -> None:
    assert program(cwd=tmp_path).returncode == 0
    (run,) = (tmp_path / "outputs" / "runs").iterdir()
    done = program("initial=nowhere", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"error: initial={tmp_path / 'nowhere'}: ")
    assert list((tmp_path / "outputs" / "runs").iterdir()) == [run]
    assert (tmp_path / "outputs" / "latest").resolve() == run.resolve()


def test_a_rejected_run_leaves_an_existing_folder_unchanged(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    for folder in ("run", "."):
        before = files(tmp_path)
        done = program("initial=nowhere", f"hydra.run.dir={folder}", cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert files(tmp_path) == before


def test_hydra_full_error_shows_the_traceback(tmp_path: Path) -> None:
    done = program("initial=nowhere", cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert (done.returncode, "Traceback" in done.stderr) == (1, True)
    assert list((tmp_path / "outputs" / "runs").iterdir()) == []


def test_a_folder_locked_by_another_process_is_left_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes may both find that the folder does not exist; the one that is refused removes nothing."""

    def refuse(folder: Path) -> None:
        raise UserError(f"{folder}: another process is training in it")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lock, "hold", refuse)
    monkeypatch.setattr(sys, "argv", [str(TRAIN), "hydra.run.dir=run"])
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(TRAIN), run_name="__main__")
    finally:
        signal.signal(signal.SIGINT, handler)
    assert end.value.code == 2
    assert (tmp_path / "run" / ".hydra" / "config.yaml").is_file()


def test_a_user_error_after_a_run_has_begun_removes_nothing(tmp_path: Path) -> None:
    (tmp_path / "incident").write_text("mistake 3")
    done = program("incident=incident", "hydra.run.dir=run", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "error: a mistake\n")
    assert status(tmp_path / "run")["state"] == "rejected"
    assert list((tmp_path / "run").glob("events.*"))


# -- the status file

DAMAGED = [("state", 3), ("state", ["running"]), ("step", "4"), ("step", None), ("steps", 1.5), ("objective", "low"),
           ("reason", {}), ("pid", "1"), ("pid", None), ("pid", -1),
           ("pid", 0), ("pid", 2**80), ("host", 3), ("duplicate_of", "0")]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), DAMAGED, ids=[f"{field}={value}" for field, value in DAMAGED])
def test_a_damaged_status_is_ignored(field: str, value: Any, tmp_path: Path) -> None:
    """With a process id of -1 or 0, stopping the job would signal other processes."""
    write_status(tmp_path, initial_status(3) | {"host": "elsewhere", field: value})
    assert read_status(tmp_path) == {}
    assert actual_state(tmp_path) is None
    assert "missing" in table([read_one(tmp_path, Job(0, [], ""))])


@pytest.mark.parametrize("value", [None, 3, "yesterday", "2020-01-01T00:00:00", [], "9999-99-99"])
def test_a_heartbeat_that_cannot_be_read_is_expired(value: Any, tmp_path: Path) -> None:
    write_status(tmp_path, initial_status(3) | {"host": "elsewhere", "updated": value})
    assert actual_state(tmp_path) == "killed"
    assert "killed" in table([read_one(tmp_path, Job(0, [], ""))])


def test_outcomes(tmp_path: Path) -> None:
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


def test_a_second_sigint_ends_the_run_at_once(tmp_path: Path) -> None:
    run = Run(tmp_path, 5)

    def interrupted() -> None:
        with run.recorded():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert status(tmp_path)["state"] == "interrupted"
    assert run.outcome().code == 130


def test_the_heartbeat_is_written_at_most_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    run = Run(tmp_path, 5)
    for step in range(100):
        run.heartbeat(step)
    assert status(tmp_path)["step"] == 0
    now += 2
    run.heartbeat(100)
    assert status(tmp_path)["step"] == 100


def test_a_folder_takes_one_process_at_a_time(tmp_path: Path) -> None:
    Run(tmp_path, 5)
    code = (
        "import sys; from pathlib import Path; from runner.errors import UserError; from runner.runs import lock\n"
        "try: lock.hold(Path(sys.argv[1]))\n"
        "except UserError as error: print(error)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path}: another process is training in it\n"


def test_latest_points_to_the_newest_run_in_outputs(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "outputs" / "runs" / name).mkdir(parents=True)
        update_latest_symlink(tmp_path / "outputs" / "runs" / name)
        assert (tmp_path / "outputs" / "latest").resolve().name == name
    (tmp_path / "elsewhere").mkdir()
    update_latest_symlink(tmp_path / "elsewhere")
    assert not list(tmp_path.glob("latest"))


# -- checkpoints


def test_checkpoints_last_and_best(tmp_path: Path) -> None:
    train(compose("steps=9", "checkpoint.every=3", "checkpoint.keep=2", "evaluate_every=3"), tmp_path)
    assert [path.name for path in checkpoint.step_files(tmp_path)] == ["step_6.pt", "step_9.pt"]
    best = checkpoint.load(checkpoint.find(tmp_path, "best"))
    assert best["best"] == status(tmp_path)["objective"]
    assert checkpoint.find(tmp_path, "6") == tmp_path / "checkpoints" / "step_6.pt"
    assert checkpoint.load(checkpoint.find(tmp_path, "last"))["step"] == 9
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_a_crash_while_writing_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save_best(tmp_path, {"step": 1, "value": torch.ones(3)})
    whole = (tmp_path / "checkpoints" / "best.pt").read_bytes()

    def crash(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save_best(tmp_path, {"step": 2, "value": torch.ones(3)})
    assert (tmp_path / "checkpoints" / "best.pt").read_bytes() == whole
    assert checkpoint.load(tmp_path / "checkpoints" / "best.pt")["step"] == 1


def test_a_checkpoint_is_synced_before_an_old_one_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file, its rename and its folder are synced first, and so is the name of the folder."""
    calls: list[str] = []

    def record_calls(owner: Any, name: str, describe: Callable[..., str]) -> None:
        original = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            calls.append(f"{name} {describe(*arguments)}")
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, call)

    record_calls(os, "fsync", lambda descriptor: Path(f"/proc/self/fd/{descriptor}").readlink().name)
    record_calls(Path, "replace", lambda path, to: f"{path.name} {to.name}")
    record_calls(Path, "unlink", lambda path, **named: path.name)
    for step in (1, 2):
        checkpoint.save(tmp_path, {"step": step}, keep=1)
    writes = [
        [f"fsync .step_{n}.pt.part", f"replace .step_{n}.pt.part step_{n}.pt", "fsync checkpoints"] for n in (1, 2)
    ]
    assert calls == [f"fsync {tmp_path.name}", *writes[0], *writes[1], "unlink step_1.pt"]


def test_a_file_that_is_not_a_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("hello")
    torch.save({"model": 1}, tmp_path / "foreign.pt")
    torch.save({"code": Path("x")}, tmp_path / "pickle.pt")
    torch.save({"step": 1}, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    for name, line in (
        ("text.pt", "damaged, or not a checkpoint of this program"),
        ("foreign.pt", "not a checkpoint of this program"),
        ("pickle.pt", "refused, since it holds more than tensors and plain values"),
        ("legacy.pt", "damaged, or not a checkpoint of this program"),
        ("missing.pt", "no such checkpoint"),
    ):
        with pytest.raises(UserError, match=f"^{re.escape(f'{tmp_path / name}: {line}')}$"):
            checkpoint.load(tmp_path / name)
    with pytest.raises(UserError, match="has no checkpoint"):
        checkpoint.find(tmp_path, "last")


def test_a_changed_bit_or_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, {"step": 1, "value": torch.ones(1000)}, keep=1)
    whole = path.read_bytes()
    data = whole.index(torch.ones(1000).numpy().tobytes())
    changed = bytearray(whole)
    changed[data + 1234] ^= 1
    for content, line in ((changed, r"damaged: the CRC32 of .*data/0 does not match"), (whole[:-1], "damaged, or not"),
                          (whole[: len(whole) // 2], "damaged, or not"), (b"", "damaged, or not")):  # fmt: skip
        write_atomically(path, content)
        with pytest.raises(UserError, match=line):
            checkpoint.load(path)


def test_damage_is_refused_or_has_no_effect(tmp_path: Path) -> None:
    """For each bit of the archive's directory and of a sample of the bytes before it; some bits are never read."""
    content = {"step": 1, "value": torch.arange(8.0), "name": "x"}
    path = checkpoint.save(tmp_path, content, keep=1)
    whole = path.read_bytes()
    directory = whole.index(b"PK\x01\x02")
    bits = [8 * index + index % 8 for index in range(0, directory, 7)] + [*range(8 * directory, 8 * len(whole))]
    refused = 0
    for bit in bits:
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            found = checkpoint.load(path)
        except UserError:
            refused += 1
        else:
            assert_identical(found, content | {"format": checkpoint.FORMAT}, f"bit {bit} ")
    assert refused > len(bits) / 2


def test_a_damaged_checkpoint_is_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoint.save(tmp_path, {"step": 1, "value": torch.ones(1000)}, keep=1)
    changed = bytearray(path.read_bytes())
    changed[len(changed) // 2] ^= 1
    path.write_bytes(changed)
    monkeypatch.setattr(torch, "load", lambda *arguments, **named: pytest.fail("was read"))
    with pytest.raises(UserError, match="damaged"):
        checkpoint.load(path)


@pytest.mark.parametrize("content", [{"step": 1}, {"step": 1, "format": 6}], ids=["older", "newer"])
def test_another_format_is_refused_in_one_line(content: dict[str, Any], tmp_path: Path) -> None:
    """Older checkpoints are not used instead. Older versions wrote a checksum after the archive."""
    checkpoint.save(tmp_path, {"step": 1}, keep=9)
    path = tmp_path / "checkpoints" / "step_2.pt"
    torch.save(content, path)
    path.write_bytes(path.read_bytes() + f"\ngradclip checkpoint, format 4, sha256 {'0' * 64}\n".encode())
    line = f"{path}: a checkpoint in another format than this program's 5, such as an older version's"
    for read in (lambda: checkpoint.load(path), lambda: checkpoint.load_newest(tmp_path)):
        with pytest.raises(UserError, match=f"^{re.escape(line)}$"):
            read()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9, 0.999])
def test_a_write_error_names_the_file(share: float, tmp_path: Path) -> None:
    """At whatever size of the file the disk is full; no partial file is left."""
    content = {"step": 1, "values": {str(number): torch.ones(number * 100) for number in range(20)}}
    path = checkpoint.save(tmp_path, content, keep=1)
    whole = path.read_bytes()
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(len(whole) * share), hard))
    try:
        with pytest.raises(OSError, match="File too large") as raised:
            checkpoint.save(tmp_path, content, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert (raised.value.errno, raised.value.filename) == (errno.EFBIG, str(path))
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == whole
