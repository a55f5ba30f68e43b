"""The project's own code: what a run trains, and how. `train` and `load` are its interface for Python."""

from trainer.api import Result, load, train

__all__ = ["Result", "load", "train"]
