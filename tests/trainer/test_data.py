"""Every data set: the same batches for the same seed from any step on, and nothing drawn from the global generator."""

from itertools import islice
from typing import Any

import pytest
import torch

from runner.errors import UserError
from tests.trainer.options import names, option
from trainer import data
from trainer.config.data import Data


def build(name: str, seed: int = 1, **values: Any) -> data.Dataset:
    try:
        return data.build(option("data", name, batch_size=4, **values), seed)
    except UserError as error:
        if "pip install" not in str(error):
            raise
        pytest.skip(str(error))


def same(one: data.Batch, other: data.Batch) -> bool:
    return (
        torch.equal(one.inputs, other.inputs)
        and torch.equal(one.targets, other.targets)
        and one.continues == other.continues
    )


@pytest.mark.parametrize("name", names("data"))
def test_batches_are_a_function_of_seed_and_step(name: str) -> None:
    whole = list(islice(build(name).batches(0), 60))
    later = list(islice(build(name).batches(25), 35))
    assert all(same(one, other) for one, other in zip(whole[25:], later, strict=True))


@pytest.mark.parametrize("name", names("data"))
def test_nothing_is_drawn_from_the_global_generator(name: str) -> None:
    state = torch.get_rng_state()
    dataset = build(name)
    list(islice(dataset.batches(0), 3))
    list(dataset.validation())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", names("data"))
def test_the_held_out_data_is_the_same_every_time(name: str) -> None:
    dataset = build(name)
    first, second = list(dataset.validation()), list(dataset.validation())
    assert first
    assert not first[0].continues
    assert all(same(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("name", names("data"))
def test_a_batch_has_the_configured_rows_and_says_what_it_is(name: str) -> None:
    dataset = build(name)
    batch = next(dataset.batches(0))
    assert len(batch.inputs) == len(batch.targets) == 4
    assert not batch.continues
    assert dataset.facts
    assert all(isinstance(value, str) for pair in dataset.facts.items() for value in pair)


@pytest.mark.parametrize("name", names("data"))
def test_its_kind_is_named(name: str) -> None:
    assert Data.options[name].kind
