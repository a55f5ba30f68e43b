"""What several tests of the trainer need: small runs of the default job, their warnings, and refused arguments."""

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
         "evaluate_every=6", "log.progress=false")  # fmt: skip


def text_file(folder: Path, count: int = 4000) -> str:
    """A small text, so that a test need not read the whole default one."""
    path = folder / "small.txt"
    path.write_text("a gradient is a product of factors; clip it, then step.\n" * (count // 56 + 1), encoding="utf-8")
    return str(path)


@cache
def _composed(overrides: tuple[str, ...]) -> Train:
    return project.compose(*overrides)


def compose(*overrides: str) -> Train:
    """The configuration of these overrides, which many tests ask for, as an object of its own."""
    return copy.deepcopy(_composed(overrides))


def small_config(folder: Path, *overrides: str) -> Train:
    """The configuration of a small run on a small text, which is written into the folder."""
    config = compose(*SMALL, "log.flow=false", *overrides)
    config.data.path = text_file(folder)
    return config


def train_small(folder: Path, *overrides: str) -> RunOutcome:
    """A small run in this process, in `folder/run`."""
    return execute_in_folder(small_config(folder, *overrides), folder / "run")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def warnings_of_run(folder: Path, caplog: pytest.LogCaptureFixture, config: Train) -> list[str]:
    """The warnings of a whole run in `folder/run`, however it ends."""
    caplog.clear()
    config.log.progress = False
    execute_in_folder(config, folder / "run")
    return warnings(caplog)


def first_steps_table(caplog: pytest.LogCaptureFixture) -> list[list[str]]:
    """The table of the first steps that was logged, in cells."""
    lines = "\n".join(record.getMessage() for record in caplog.records if record.name == "trainer.monitor.first_steps")
    return [line.split() for line in lines.splitlines()]


def inspect_output(capsys: pytest.CaptureFixture[str], arguments: str) -> str:
    """What scripts/inspect_gradients.py prints."""
    inspect_gradients.main(shlex.split(arguments))
    return capsys.readouterr().out


def table_rows(text: str) -> dict[str, list[str]]:
    """The rows of the table in it, by parameter."""
    _, rows, *_ = text.split("\n\n")
    return {line.split()[0]: line.split()[1:] for line in rows.splitlines()[1:]}


def preflight_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which preflight ends the program."""
    with pytest.raises(SystemExit) as end:
        preflight.preflight(PROJECT, ["train.py", *arguments])
    assert end.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1, output.err
    return output.err.removeprefix("error: ").rstrip()
