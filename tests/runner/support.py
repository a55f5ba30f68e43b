"""What several tests of the runner need: the toy project composed, checked, run and started."""

import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from runner.cli.preflight import preflight
from runner.compose import Composer
from runner.runs.run import Run, RunOutcome
from tests import programs
from tests.runner.toy.toy import PROJECT, Toy

TRAIN = PROJECT.root / "train.py"
COUNTER = PROJECT.root.parent / "counter" / "train.py"  # the same without torch
FIELDS = {"state", "step", "steps", "objective", "reason", "started", "updated", "pid", "host", "duplicate_of"}


@cache
def composer() -> Composer[Toy]:
    return Composer(PROJECT)


@cache
def _composed(overrides: tuple[str, ...]) -> Toy:
    return composer().checked(overrides)


def compose(*overrides: str) -> Toy:
    """The configuration of these overrides, which many tests ask for, as an object of its own."""
    return copy.deepcopy(_composed(overrides))


def train(config: Toy, folder: Path, *, resumed: bool = False, swept: dict[str, Any] | None = None) -> RunOutcome:
    """A run, or the rest of one, in this process."""
    run = Run(folder, config.steps, resumed=resumed, swept=swept)
    with run.recorded():
        PROJECT.execute(config, run)
    return run.outcome()


def program(*arguments: str, cwd: Path, script: Path = TRAIN, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python train.py …` to its end, in a process that has torch already."""
    return programs.run(script, *arguments, cwd=cwd, env=os.environ | environment)


def real_program(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`python train.py …` as a user starts it."""
    command = [sys.executable, str(TRAIN), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which `preflight` ends the program."""
    with pytest.raises(SystemExit) as end:
        preflight(PROJECT, ["train.py", *arguments])
    output = capsys.readouterr()
    assert (end.value.code, output.out) == (2, "")
    assert output.err.count("\n") == 1, output.err
    return output.err.removeprefix("error: ").rstrip()


def status(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "status.json").read_text())
    assert set(found) == FIELDS
    return found


def statuses(sweep: Path, count: int) -> list[dict[str, Any]]:
    return [status(sweep / str(number)) for number in range(count)]


def files(folder: Path) -> Mapping[Path, bytes]:
    """All that a folder holds."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def wait_for(what: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)
