"""Every data set: the same batches for the same seed from any step on, and nothing drawn from the global generator."""

from itertools import islice
from typing import Any

import pytest
import torch

from runner.errors import UserError
from tests.trainer.options import option, option_names
from trainer import data
from trainer.config.data import Data


def build(name: str, seed: int = 1, **values: Any) -> data.Dataset:
    try:
        return data.build(option("data", name, batch_size=4, **values), seed)
    except UserError as error:
        if "pip install" not in str(error):
            raise
        pytest.skip(str(error))


def equal(one: data.Batch, other: data.Batch) -> bool:
    return (
        torch.equal(one.inputs, other.inputs)
        and torch.equal(one.targets, other.targets)
        and one.continues == other.continues
    )


@pytest.mark.parametrize("name", option_names("data"))
def test_batches_depend_on_seed_and_step_alone(name: str) -> None:
    batches = list(islice(build(name).batches(0), 60))
    later = list(islice(build(name).batches(25), 35))
    assert all(equal(one, other) for one, other in zip(batches[25:], later, strict=True))


@pytest.mark.parametrize("name", option_names("data"))
def test_nothing_is_drawn_from_the_global_generator(name: str) -> None:
    state = torch.get_rng_state()
    dataset = build(name)
    list(islice(dataset.batches(0), 3))
    list(dataset.validation())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", option_names("data"))
def test_the_held_out_data_is_the_same_at_every_evaluation(name: str) -> None:
    dataset = build(name)
    first, second = list(dataset.validation()), list(dataset.validation())
    assert first
    assert not first[0].continues
    assert all(equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("name", option_names("data"))
def test_a_data_set_has_facts_and_batches_of_the_configured_size(name: str) -> None:
    dataset = build(name)
    batch = next(dataset.batches(0))
    assert len(batch.inputs) == len(batch.targets) == 4
    assert not batch.continues
    assert dataset.facts
    assert all(isinstance(value, str) for pair in dataset.facts.items() for value in pair)


@pytest.mark.parametrize("name", option_names("data"))
def test_a_data_set_declares_its_kind(name: str) -> None:
    assert Data.options[name].kind
