"""Digits: shuffled in every epoch, split once, loaded by workers."""

import os
import signal
import sys
from itertools import chain, islice
from typing import Any

import pytest
import torch

from runner.errors import UserError
from tests.trainer.options import option, require_options
from tests.trainer.support import compose
from trainer import data, inspection
from trainer.data import digits
from trainer.data.digits import EpochSampler
from trainer.state import build as build_state


def build(**values: Any) -> data.Dataset:
    pytest.importorskip("sklearn")
    return data.build(option("data", "digits", **values), seed=1)


def test_batches_are_shuffled_by_epoch() -> None:
    sampler = EpochSampler(count=10, batch_size=3, seed=4, start=0)
    epochs = [list(chain(*islice(iter(EpochSampler(10, 3, 4, start)), 3))) for start in (0, 3, 6)]
    assert epochs[0] + epochs[1] == list(chain(*islice(iter(sampler), 6)))
    for epoch in epochs:
        assert len(set(epoch)) == 9
    assert epochs[0] != epochs[1] != epochs[2]
    assert next(iter(EpochSampler(10, 3, 5, 0))) != next(iter(EpochSampler(10, 3, 4, 0)))


def test_images_are_scaled_and_split() -> None:
    dataset = build(batch_size=64, validation=0.2)
    batch = next(dataset.batches(0))
    assert batch.inputs.shape == (64, 64)
    assert 0 <= batch.inputs.min() < batch.inputs.max() == 1
    (held_out,) = dataset.validation()
    assert len(held_out.inputs) == int(1797 * 0.2)


@pytest.mark.parametrize(("values", "line"), [
    ({"batch_size": 1439, "validation": 0.2}, "data.batch_size=1439: 1438 of 1797 images are trained on at "
     "data.validation=0.2; data.batch_size of at most 1438 fits"),
    ({"validation": 0.0001}, "data.validation=0.0001: holds out none of 1797 images; at least 0.000557 fits"),
])  # fmt: skip
def test_a_split_without_enough_images_is_answered_with_sizes_that_fit(values: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as error:
        build(**values)
    assert str(error.value) == line


def test_the_sizes_that_an_error_suggests_fit() -> None:
    assert len(next(build(batch_size=1438, validation=0.2).batches(0)).inputs) == 1438
    assert len(next(build(validation=0.000557).validation()).inputs) == 1


def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError) as error:
        data.build(option("data", "digits"), seed=1)
    assert str(error.value) == 'data=digits needs scikit-learn: pip install -c constraints.txt -e ".[digits]"'


def test_a_recurrent_network_reads_the_pixels_as_time_steps() -> None:
    pytest.importorskip("sklearn")
    require_options("model=rnn")
    state = build_state(compose("model=rnn", "data=digits", "model.hidden=5", "model.gain=0.5"))
    norms = inspection.through_time(state, next(state.data.batches(0)))
    assert norms is not None
    assert len(norms) == 64
    assert norms[0] < 1e-6 * norms[-1]


def test_workers_give_the_same_batches() -> None:
    without_workers, with_workers = (build(workers=workers) for workers in (0, 1))
    for one, other in zip(islice(without_workers.batches(5), 4), islice(with_workers.batches(5), 4), strict=True):
        assert torch.equal(one.inputs, other.inputs)


def test_a_worker_whose_training_process_is_gone_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    ignored: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(signal, "signal", lambda number, handler: ignored.append(number))
    digits._prepare_worker(os.getppid(), 0)
    assert ended == []
    assert {signal.SIGINT, signal.SIGTERM} <= set(ignored)
    digits._prepare_worker(os.getpid(), 0)  # not the parent
    assert ended == [1]
