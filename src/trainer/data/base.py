"""The interface of a data set."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Batch(NamedTuple):
    """One step's data. continues: each row starts where the same row of the previous batch ended."""

    inputs: Tensor
    targets: Tensor
    continues: bool = False


class Dataset(ABC):
    """Data, and what its task needs: the loss, the metrics, a sample of the model's output.

    inputs, outputs: the sizes of a model's input and output, such as the number of features and of classes; for
    characters, the number of different ones.
    facts: a description of the data for the log, such as its size, as names and values.
    """

    inputs: int
    outputs: int
    facts: dict[str, str]

    @property
    def fingerprint(self) -> str:
        """A SHA-256 that identifies the data's content: a run is resumed with the same data only."""
        return hashlib.sha256(repr(sorted(self.facts.items())).encode()).hexdigest()

    @abstractmethod
    def batches(self, start: int) -> Iterator[Batch]:
        """Endless training batches from step `start` on (0 is the first); each depends on seed and step alone."""

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
        """Text that the model generates; None if the data set does not support it."""
        return None


def accuracy(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """The share of rows or characters whose target has the highest score."""
    return {"accuracy": (outputs.argmax(-1) == targets).float().mean()}
