"""Points on a line."""

import torch

from tests.trainer.options import option, require_options
from tests.trainer.support import compose
from trainer import data, inspection
from trainer.state import build


def test_points_are_evenly_spaced_on_the_line() -> None:
    config = option("data", "line", slope=-2.0, intercept=5.0, low=0.0, high=4.0, batch_size=5)
    batch = next(data.build(config, seed=1).batches(0))
    assert batch.inputs.flatten().tolist() == [0, 1, 2, 3, 4]
    assert batch.targets.flatten().tolist() == [5, 3, 1, -1, -3]


def test_noise_differs_between_training_and_validation() -> None:
    noisy = data.build(option("data", "line", noise=0.5), seed=1)
    (validation,) = noisy.validation()
    assert not torch.equal(next(noisy.batches(0)).targets, validation.targets)


def test_points_have_no_time_steps() -> None:
    require_options("model=mlp")
    line = build(compose("model=mlp", "data=line"))
    assert inspection.through_time(line, next(line.data.batches(0))) is None
