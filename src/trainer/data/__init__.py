"""Data sets. Each file here has a `build(config, seed)`, found by the name of the option in conf/data/."""

from importlib import import_module

from trainer import config as schema
from trainer.data.base import Batch, Dataset

__all__ = ["Batch", "Dataset", "build"]


def build(config: schema.Data, seed: int) -> Dataset:
    """The data set of a configuration; raises UserError for what cannot be read."""
    dataset: Dataset = import_module(f"{__name__}.{config.name}").build(config, seed)
    return dataset
