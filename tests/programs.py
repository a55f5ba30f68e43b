"""Runs programs in processes forked from a server that has imported torch already.

Importing torch takes most of the time of a program with few steps. Other differences from a new interpreter: modules
are imported, torch has one thread, and all programs have the same hash seed. tests/support.py starts interpreters.
"""

import atexit
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing import forkserver
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.support import ROOT

PRELOADED = ["tests.programs", "tests.runner.toy.loop", "trainer.project", "trainer.run", "tests.preloaded"]
OUTPUTS = ("stdout", "stderr")
SERVER: Any = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(PRELOADED)


def start_server() -> None:
    """Starts the fork server unless it runs, with a PYTHONPATH from which it can import PRELOADED."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT)]))
        forkserver.ensure_running()


class Program:
    """`python SCRIPT ARGUMENTS` in a folder, with the part of the interface of subprocess.Popen that the tests use."""

    def __init__(self, script: str | Path, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None):
        self._written = Path(tempfile.mkdtemp(prefix="program"))
        atexit.register(shutil.rmtree, self._written)
        command, environment = [str(cwd / script), *arguments], dict(os.environ if env is None else env)
        start_server()
        self._process = SERVER.Process(target=_run, args=(command, str(cwd), environment, str(self._written)))
        self._process.start()
        atexit.register(self.kill)  # otherwise multiprocessing would wait for the process
        self.args, self.pid = command, self._process.pid

    @property
    def returncode(self) -> int | None:
        code: int | None = self._process.exitcode
        return code

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        atexit.unregister(self.kill)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for the end of the program; returns its stdout and stderr."""
        self.wait(timeout)
        out, err = ((self._written / name).read_text(encoding="utf-8") for name in OUTPUTS)
        return out, err

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()
        self.wait()


def run(
    script: str | Path, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end."""
    with Program(script, *arguments, cwd=cwd, env=env) as program:
        out, err = program.communicate(timeout)
    return subprocess.CompletedProcess(program.args, program.wait(), out, err)


def _run(command: list[str], cwd: str, environment: dict[str, str], written: str) -> None:
    """Runs the script in the forked process, with the outputs, environment and path of a new interpreter.

    When it ends, multiprocessing joins the threads and flushes the outputs; functions of atexit are not called.
    """
    for number, output in enumerate(OUTPUTS, start=1):
        file = os.open(Path(written) / output, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = [str(Path(command[0]).resolve().parent), *(path for path in sys.path if path not in ("", str(ROOT)))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command)
        runpy.run_path(command[0], run_name="__main__")
