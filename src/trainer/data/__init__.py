"""Data sets. Each option of conf/data/ has a file of the same name here, with `build(config, seed)`."""

from trainer.config.data import Data
from trainer.config.options import builder
from trainer.data.base import Batch, Dataset

__all__ = ["Batch", "Dataset", "build"]


def build(config: Data, seed: int) -> Dataset:
    """The data set that a configuration describes. Raises UserError for a file that cannot be read or does not fit."""
    dataset: Dataset = builder(__name__, "data", config.name)(config, seed)
    return dataset
