"""One vector, and the absolute error of the outputs along one direction: the loss's gradient always has length 1."""

from collections.abc import Iterator

import torch
from torch import Tensor

from trainer.config.data import direction as schema
from trainer.data.base import Batch, Dataset


def build(config: schema.Direction, seed: int) -> "Direction":
    return Direction(config, seed)


class Direction(Dataset):
    """A random unit vector x, [batch_size, width], and the loss |u·y - target| for a random unit vector u.

    Its gradient with respect to the outputs y is u or -u, so that back-propagation starts with a length of 1.
    """

    def __init__(self, config: schema.Direction, seed: int):
        random = torch.Generator().manual_seed(seed)
        vector, direction = torch.nn.functional.normalize(torch.randn(2, config.width, generator=random))
        rows = config.batch_size
        self._batch = Batch(vector.expand(rows, -1), torch.full((rows,), config.target))
        self._direction = direction
        self.inputs = self.outputs = config.width
        self.facts = {"direction": f"{config.width} elements, target {config.target:g}"}

    def batches(self, start: int) -> Iterator[Batch]:
        while True:
            yield self._batch

    def validation(self) -> Iterator[Batch]:
        yield self._batch

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        component: Tensor = outputs @ self._direction.to(outputs)
        return (component - targets).abs().mean()
