"""Helpers for the tests of trainer: small runs of the default job, warnings, and errors of preflight."""

import copy
import logging
import shlex
from functools import cache
from pathlib import Path

import pytest

from runner.cli import preflight
from runner.runs.run import RunOutcome
from scripts import inspect_gradients
from trainer import project
from trainer.config import Train
from trainer.project import PROJECT
from trainer.run import execute_in_folder

SMALL = ("model.hidden=8", "model.embedding=4", "data.batch_size=4", "data.window=16", "data.sample=0", "steps=6",
         "evaluate_every=6", "log.progress=false", "post_mortem.try_steps=0")  # fmt: skip


def text_file(folder: Path, count: int = 4000) -> str:
    """Writes a text of about `count` characters into the folder, in place of the default text. Returns its path."""
    path = folder / "small.txt"
    path.write_text("a gradient is a product of factors; clip it, then step.\n" * (count // 56 + 1), encoding="utf-8")
    return str(path)


@cache
def _composed(overrides: tuple[str, ...]) -> Train:
    return project.compose(*overrides)


def compose(*overrides: str) -> Train:
    """A new copy of the configuration for these overrides, which is composed once."""
    return copy.deepcopy(_composed(overrides))


def small_config(folder: Path, *overrides: str) -> Train:
    """The configuration of a small run on a small text, which is written into the folder."""
    config = compose(*SMALL, "log.gradient_norms=false", *overrides)
    config.data.path = text_file(folder)
    return config


def train_small(folder: Path, *overrides: str) -> RunOutcome:
    """Executes a small run in this process, in `folder/run`."""
    return execute_in_folder(small_config(folder, *overrides), folder / "run")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings that were logged."""
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def warnings_of_run(folder: Path, caplog: pytest.LogCaptureFixture, config: Train) -> list[str]:
    """Executes a run in `folder/run`. Returns its warnings, also if it diverges."""
    caplog.clear()
    config.log.progress = False
    execute_in_folder(config, folder / "run")
    return warnings(caplog)


def first_steps_table(caplog: pytest.LogCaptureFixture) -> list[list[str]]:
    """The rows of the logged table of the first steps, each split into cells."""
    lines = "\n".join(record.getMessage() for record in caplog.records if record.name == "trainer.monitor.first_steps")
    return [line.split() for line in lines.splitlines()]


def inspect_output(capsys: pytest.CaptureFixture[str], arguments: str) -> str:
    """The output of scripts/inspect_gradients.py."""
    inspect_gradients.main(shlex.split(arguments))
    return capsys.readouterr().out


def table_rows(text: str) -> dict[str, list[str]]:
    """The cells of the table in an output of scripts/inspect_gradients.py, by parameter."""
    _, rows, *_ = text.split("\n\n")
    return {line.split()[0]: line.split()[1:] for line in rows.splitlines()[1:]}


def preflight_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The single-line error with which preflight exits, without its prefix."""
    with pytest.raises(SystemExit) as end:
        preflight.preflight(PROJECT, ["train.py", *arguments])
    assert end.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1, output.err
    return output.err.removeprefix("error: ").rstrip()
