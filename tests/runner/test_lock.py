"""The lock of a run's folder."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from runner.runs import lock
from runner.runs.run import Run
from runner.runs.status import actual_state


def test_a_run_holds_its_lock_until_it_ends(tmp_path: Path) -> None:
    run = Run(tmp_path, 3)
    assert lock.is_held(tmp_path)
    with run.recorded():
        assert lock.is_held(tmp_path)
    assert not lock.is_held(tmp_path)
    lock.hold(tmp_path)
    lock.hold(tmp_path)  # no effect the second time
    lock.release(tmp_path)
    assert not lock.is_held(tmp_path)


def test_a_query_of_the_lock_does_not_prevent_a_run(tmp_path: Path) -> None:
    """`status.py` holds the lock for a moment."""
    lock.hold(tmp_path)
    lock.release(tmp_path)
    code = "import fcntl, sys, time\nfile = open(sys.argv[1])\nfcntl.lockf(file, fcntl.LOCK_SH)\nprint(flush=True)\n"
    query = [sys.executable, "-c", f"{code}time.sleep(0.05)", str(tmp_path / lock.LOCK_FILE)]
    with subprocess.Popen(query, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        lock.hold(tmp_path)
    lock.release(tmp_path)


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run can train there, and a killed one is recognized by its missing process."""

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
