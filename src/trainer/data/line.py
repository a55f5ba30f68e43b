"""Points on a straight line."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.config.data import line as schema
from trainer.data.base import Batch, Dataset


def build(config: schema.Line, seed: int) -> "Line":
    return Line(config, seed)


class Line(Dataset):
    """Points y = slope * x + intercept + noise at evenly spaced x, [batch_size, 1] each, all of them in every batch."""

    inputs = outputs = 1

    def __init__(self, config: schema.Line, seed: int):
        random = torch.Generator().manual_seed(seed)
        inputs = torch.linspace(config.low, config.high, config.batch_size).view(-1, 1)
        exact = config.slope * inputs + config.intercept
        noise = config.noise * torch.randn(2, *inputs.shape, generator=random)
        self._training, self._validation = Batch(inputs, exact + noise[0]), Batch(inputs, exact + noise[1])
        self.facts = {"line": f"y = {config.slope:g} x + {config.intercept:g}"}

    def batches(self, start: int) -> Iterator[Batch]:
        while True:
            yield self._training

    def validation(self) -> Iterator[Batch]:
        yield self._validation

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets)
