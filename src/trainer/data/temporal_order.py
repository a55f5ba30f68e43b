"""The temporal order problem: the class of a sequence is the order of two symbols that occur long before its end."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.config.data import temporal_order as schema
from trainer.data.base import Batch, Dataset, accuracy

DISTRACTORS = 4  # the symbols 0 to 3 are irrelevant; the order of the symbols 4 and 5 is the class
VALIDATION = 2**40  # seeds the held-out sequences in place of a step; larger than any run's last step


def build(config: schema.TemporalOrder, seed: int) -> "TemporalOrder":
    return TemporalOrder(config, seed)


class TemporalOrder(Dataset):
    """Sequences of distractors with two marked symbols. The pair is one of four classes, scored after the last symbol.

    Inputs are symbol indices, [batch, length], and targets are classes, [batch]. The first marked symbol is in
    the second tenth of the sequence, the other in the fifth. Hochreiter, Schmidhuber 1997 (task 6a),
    at the positions of Pascanu, Mikolov, Bengio 2013 (section 4.1). New sequences at every step.
    """

    inputs, outputs = DISTRACTORS + 2, 4

    def __init__(self, config: schema.TemporalOrder, seed: int):
        self._length, self._rows, self._seed = config.length, config.batch_size, seed
        self._validation = self._draw(config.validation, VALIDATION)
        self.facts = {"temporal order": f"sequences of {config.length} symbols, 4 classes"}

    def batches(self, start: int) -> Iterator[Batch]:
        while True:
            yield self._draw(self._rows, start)
            start += 1

    def validation(self) -> Iterator[Batch]:
        yield self._validation

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs[:, -1], targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return accuracy(outputs[:, -1], targets)

    def _draw(self, rows: int, step: int) -> Batch:
        random = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        symbols = torch.randint(0, DISTRACTORS, (rows, self._length), generator=random)
        marked = torch.randint(0, 2, (rows, 2), generator=random)
        row = torch.arange(rows)
        for which, (low, high) in enumerate(((0.1, 0.2), (0.4, 0.5))):
            first, last = int(low * self._length), int(high * self._length)
            position = torch.randint(first, last, (rows,), generator=random)
            symbols[row, position] = DISTRACTORS + marked[:, which]
        return Batch(symbols, 2 * marked[:, 0] + marked[:, 1])
