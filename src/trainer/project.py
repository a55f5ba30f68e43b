"""This project's description for the runner, and its configurations as typed objects."""

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
    """The checked configuration for these overrides. Raises UserError, InvalidField, and what Hydra raises."""
    return composer().checked(overrides)


def load(folder: Path) -> Train:
    """The configuration of the run in a folder. Raises UserError if the folder holds none."""
    return composition.load(folder, PROJECT)
