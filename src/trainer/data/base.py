"""What the loop expects of a data set."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Batch(NamedTuple):
    """One step's data. continues: its rows go on where those of the batch before ended."""

    inputs: Tensor
    targets: Tensor
    continues: bool = False


class Dataset(ABC):
    """Data, and what its kind of task needs: the loss, the metrics, a sample of what was learnt.

    inputs, outputs: how many different characters, features or targets there are.
    facts: what a reader of the run should know of the data, such as a hash.
    """

    inputs: int
    outputs: int
    facts: dict[str, str]

    @abstractmethod
    def batches(self, start: int) -> Iterator[Batch]:
        """Training batches without an end, from step `start` on (0 is the first); a function of it and the seed."""

    @abstractmethod
    def validation(self) -> Iterator[Batch]:
        """All held-out data, once."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss over all targets, 0-d."""

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Further means over the targets, by name, 0-d each."""
        return {}

    def sample(self, model: nn.Module, device: torch.device) -> str | None:
        """Something the model made, for a person to read."""
        return None


def accuracy(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """The share of targets that have the highest score."""
    return {"accuracy": (outputs.argmax(-1) == targets).float().mean()}
