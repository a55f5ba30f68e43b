"""Small images of handwritten digits, from scikit-learn (the extra `digits`)."""

import math
import os
import signal
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Sampler, TensorDataset

from runner.errors import UserError
from runner.runs.run import SIGNALS
from trainer.config.data import digits as schema
from trainer.data.base import Batch, Dataset, accuracy


def build(config: schema.Digits, seed: int) -> "Digits":
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError('data=digits needs scikit-learn: pip install -c constraints.txt -e ".[digits]"') from error
    images, labels = load_digits(return_X_y=True)
    return Digits(config, torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels), seed)


class Digits(Dataset):
    """Images as [batch_size, 64] grey values from 0 to 1; their targets are [batch_size] digits from 0 to 9."""

    inputs, outputs = 64, 10

    def __init__(self, config: schema.Digits, images: Tensor, labels: Tensor, seed: int):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))  # every seed has the same split
        held_out = int(len(images) * config.validation)
        training = len(images) - held_out
        if held_out == 0:
            share = math.ceil(1e6 / len(images)) / 1e6
            raise UserError(
                f"data.validation={config.validation}: holds out none of {len(images)} images; at least {share:g} fits"
            )
        if config.batch_size > training:
            raise UserError(
                f"data.batch_size={config.batch_size}: {training} of {len(images)} images are trained on at "
                f"data.validation={config.validation}; data.batch_size of at most {training} fits"
            )
        self._validation = Batch(images[order[:held_out]], labels[order[:held_out]])
        self._training = TensorDataset(images[order[held_out:]], labels[order[held_out:]])
        self._config, self._seed = config, seed
        self.facts = {"images": f"{training} for training, {held_out} for validation"}

    def batches(self, start: int) -> Iterator[Batch]:
        sampler = EpochSampler(len(self._training), self._config.batch_size, self._seed, start)
        loader = DataLoader(
            self._training,
            batch_sampler=sampler,
            num_workers=self._config.workers,
            pin_memory=self._config.workers > 0 and torch.cuda.is_available(),  # pinned in a thread of the DataLoader's
            generator=torch.Generator().manual_seed(self._seed),  # the default draws from the global generator
            worker_init_fn=partial(_prepare_worker, os.getpid()),
        )
        for inputs, targets in loader:
            yield Batch(inputs, targets)

    def validation(self) -> Iterator[Batch]:
        yield self._validation

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return accuracy(outputs, targets)


def _prepare_worker(parent: int, worker: int) -> None:
    """Has a worker ignore the signals that the training process handles, and end if that process is gone.

    A signal to the process group reaches the workers too; the training process ends them when it stops.
    torch's workers watch the parent that they find when they start, so a worker whose training process was
    killed before that would wait forever.
    """
    if os.getppid() != parent:
        os._exit(1)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class EpochSampler(Sampler[list[int]]):
    """Endless batches of indices, shuffled in every epoch: a function of the seed and the step alone."""

    def __init__(self, count: int, batch_size: int, seed: int, start: int):
        self._count, self._batch_size, self._seed, self._start = count, batch_size, seed, start

    def __iter__(self) -> Iterator[list[int]]:
        per_epoch = self._count // self._batch_size  # a last, smaller batch is left out
        epoch, first = divmod(self._start, per_epoch)
        while True:
            random = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
            order = torch.randperm(self._count, generator=random).tolist()
            for batch in range(first, per_epoch):
                yield order[batch * self._batch_size : (batch + 1) * self._batch_size]
            epoch, first = epoch + 1, 0
