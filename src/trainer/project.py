"""This project as the runner sees it, and its configurations as typed objects: for train.py, the scripts and tests."""

from functools import cache
from pathlib import Path

from runner import compose as composition
from runner.compose import Composer
from runner.config import Project
from trainer.config import Train

PROJECT = Project(schema=Train, run="trainer.run:execute", root=Path(__file__).parents[2])


@cache
def composer() -> Composer[Train]:
    """The composer of conf/."""
    return Composer(PROJECT)


def compose(*overrides: str) -> Train:
    """The checked configuration for these overrides. Raises what Hydra raises, UserError and InvalidField."""
    return composer().checked(overrides)


def load(folder: Path) -> Train:
    """The configuration with which the run in a folder was made. Raises UserError if it holds none."""
    return composition.load(folder, PROJECT)
