"""Helpers for the tests of the runner: the toy project is composed, run in this process, or started as a program."""

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
COUNTER = PROJECT.root.parent / "counter" / "train.py"  # a project that does not import torch
FIELDS = {"state", "step", "steps", "objective", "reason", "started", "updated", "pid", "host", "duplicate_of"}


@cache
def composer() -> Composer[Toy]:
    return Composer(PROJECT)


@cache
def _composed(overrides: tuple[str, ...]) -> Toy:
    return composer().checked(overrides)


def compose(*overrides: str) -> Toy:
    """The configuration for these overrides, as a new object; the composition is cached."""
    return copy.deepcopy(_composed(overrides))


def train(config: Toy, folder: Path, *, resumed: bool = False, swept: dict[str, Any] | None = None) -> RunOutcome:
    """Runs, or resumes a run, in this process."""
    run = Run(folder, config.steps, resumed=resumed, swept=swept)
    with run.recorded():
        PROJECT.execute(config, run)
    return run.outcome()


def program(*arguments: str, cwd: Path, script: Path = TRAIN, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `python train.py …` to its end, in a process forked with torch imported."""
    return programs.run(script, *arguments, cwd=cwd, env=os.environ | environment)


def real_program(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs `python train.py …` to its end, in a new interpreter."""
    command = [sys.executable, str(TRAIN), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The line after `error: ` with which `preflight` ends the program."""
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
    """The content of every file in a folder, by path."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
