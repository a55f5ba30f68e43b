"""Data sets: what they yield, the same for the same seed, from any step on."""

import math
import os
from itertools import chain, islice
from pathlib import Path

import pytest
import torch

from runner.errors import UserError
from tests.trainer.support import text_file
from trainer import data
from trainer.data import digits
from trainer.data.digits import EpochSampler
from trainer.data.text import Text, numbered, read
from trainer.project import compose

KINDS = {
    "text": ["data=text"],
    "digits": ["data=digits", "model=mlp"],
    "line": ["data=line", "model=linear_net"],
    "direction": ["data=direction", "model=deep_linear"],
    "temporal_order": ["data=temporal_order"],
}


def build(kind: str, *overrides: str, seed: int = 1) -> data.Dataset:
    return data.build(compose(*KINDS[kind], *overrides).data, seed)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_a_function_of_seed_and_step(kind: str) -> None:
    whole = list(islice(build(kind).batches(0), 60))
    later = list(islice(build(kind).batches(25), 35))
    for one, other in zip(whole[25:], later, strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.targets, other.targets)
        assert one.continues == other.continues


def test_the_default_text_is_real_and_whole() -> None:
    text = read(None)
    assert len(text) > 400_000
    assert "gradient" not in text[:100]
    work = build("text")
    assert isinstance(work, Text)
    assert math.log(work.outputs) == pytest.approx(4.63, abs=0.05)
    assert len(work.facts["sha256"]) == 64


def test_text_is_read_in_streams_and_predicts_the_next_character(tmp_path: Path) -> None:
    path = text_file(tmp_path)
    text = Path(path).read_text()
    work = build("text", f"data.path={path}", "data.batch_size=4", "data.window=10")
    assert isinstance(work, Text)
    length = int(len(text) - int(len(text) * 0.1)) // 4
    first, second = islice(work.batches(0), 2)
    for row in range(4):
        expected = text[row * length : row * length + 21]
        read_back = "".join(work.characters[number] for number in torch.cat([first.inputs[row], second.inputs[row]]))
        target = "".join(work.characters[number] for number in torch.cat([first.targets[row], second.targets[row]]))
        assert read_back == expected[:20]
        assert target == expected[1:21]
    assert (first.continues, second.continues) == (False, True)


@pytest.mark.parametrize("text", ["", "a", "ba\nab", "na\u00efve \u6f22\u5b57 \U0001f600 a\U0010ffff\0"])
def test_characters_are_numbered_in_order(text: str) -> None:
    characters, numbers = numbered(text)
    assert characters == sorted(set(text))
    assert numbers.dtype == torch.int64
    assert numbers.tolist() == [characters.index(character) for character in text]


def test_training_and_validation_text_do_not_overlap(tmp_path: Path) -> None:
    path = tmp_path / "numbers.txt"
    path.write_text("".join(chr(0x4E00 + number) for number in range(2000)), encoding="utf-8")
    work = build("text", f"data.path={path}", "data.batch_size=4", "data.window=8")
    windows = math.ceil((1800 // 4 - 1) / 8)
    training = {n for batch in islice(work.batches(0), windows) for n in batch.inputs.flatten().tolist()}
    held_out = {n for batch in work.validation() for n in batch.targets.flatten().tolist()}
    assert not training & held_out
    assert len(training) > 1700
    assert len(held_out) > 180


def test_too_short_a_text_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="characters are too few"):
        build("text", f"data.path={text_file(tmp_path, 300)}")


def test_digits_are_shuffled_by_epoch_and_held_out() -> None:
    sampler = EpochSampler(count=10, batch_size=3, seed=4, start=0)
    epochs = [list(chain(*islice(iter(EpochSampler(10, 3, 4, start)), 3))) for start in (0, 3, 6)]
    assert epochs[0] + epochs[1] == list(chain(*islice(iter(sampler), 6)))
    for epoch in epochs:
        assert len(set(epoch)) == 9
    assert epochs[0] != epochs[1] != epochs[2]
    assert next(iter(EpochSampler(10, 3, 5, 0))) != next(iter(EpochSampler(10, 3, 4, 0)))


def test_digits_values() -> None:
    work = build("digits")
    batch = next(work.batches(0))
    assert batch.inputs.shape == (64, 64)
    assert 0 <= batch.inputs.min() < batch.inputs.max() == 1
    (held_out,) = work.validation()
    assert len(held_out.inputs) == int(1797 * 0.2)


def test_data_workers_give_the_same_batches() -> None:
    alone, helped = (build("digits", f"data.workers={workers}") for workers in (0, 1))
    for one, other in zip(islice(alone.batches(5), 4), islice(helped.batches(5), 4), strict=False):
        assert torch.equal(one.inputs, other.inputs)


def test_a_worker_whose_training_process_is_gone_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr("signal.signal", lambda *arguments: None)
    digits._settle(os.getppid(), 0)
    assert ended == []
    digits._settle(os.getpid(), 0)  # not the parent
    assert ended == [1]


def test_making_batches_draws_nothing_from_the_global_generator() -> None:
    for kind in KINDS:
        work = build(kind)
        torch.manual_seed(0)
        state = torch.get_rng_state()
        list(islice(work.batches(0), 3))
        assert torch.equal(state, torch.get_rng_state()), kind


def test_line() -> None:
    work = build("line", "data.slope=-2", "data.intercept=5", "data.low=0", "data.high=4", "data.batch_size=5")
    batch = next(work.batches(0))
    assert batch.inputs.flatten().tolist() == [0, 1, 2, 3, 4]
    assert batch.targets.flatten().tolist() == [5, 3, 1, -1, -3]
    noisy = build("line", "data.noise=0.5")
    (validation,) = noisy.validation()
    assert not torch.equal(next(noisy.batches(0)).targets, validation.targets)


@pytest.mark.parametrize("rows", [1, 3])
def test_direction_sends_a_gradient_of_length_one(rows: int) -> None:
    work = build("direction", "data.width=5", f"data.batch_size={rows}", "data.target=2")
    batch = next(work.batches(0))
    assert batch.inputs.shape == (rows, 5)
    assert batch.inputs.norm(dim=1).tolist() == pytest.approx([1.0] * rows)
    outputs = (7 * torch.randn(1, 5)).expand(rows, 5).clone().requires_grad_()
    work.loss(outputs, batch.targets).backward()
    assert outputs.grad.sum(0).norm().item() == pytest.approx(1.0)  # of all rows, which are alike
    read = outputs.grad.sum(0) if (outputs.grad.sum(0) @ outputs[0]).item() > 0 else -outputs.grad.sum(0)
    reached = (read @ outputs[0]).item()
    assert work.loss(outputs, batch.targets).item() in (pytest.approx(abs(reached - 2)), pytest.approx(reached + 2))


@pytest.mark.parametrize("length", [10, 30, 100])
def test_temporal_order(length: int) -> None:
    work = build("temporal_order", f"data.length={length}", "data.batch_size=400", "data.validation=300")
    batch, other = islice(work.batches(0), 2)
    (held_out,) = work.validation()
    assert held_out.inputs.shape == (300, length)
    assert not torch.equal(batch.inputs, other.inputs)
    places: dict[int, set[int]] = {0: set(), 1: set()}
    for row, target in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        marked = [(place, symbol - 4) for place, symbol in enumerate(row) if symbol >= 4]
        (first, one), (second, two) = marked
        assert target == 2 * one + two
        places[0].add(first)
        places[1].add(second)
    assert places[0] == set(range(length // 10, 2 * length // 10))
    assert places[1] == set(range(4 * length // 10, 5 * length // 10))
    assert set(batch.targets.tolist()) == {0, 1, 2, 3}
    assert set(batch.inputs.flatten().tolist()) == set(range(6))


def test_every_seed_has_its_own_sequences() -> None:
    one, other = (build("temporal_order", seed=seed) for seed in (1, 2))
    assert not torch.equal(next(one.batches(0)).inputs, next(other.batches(0)).inputs)
    assert not torch.equal(next(one.validation()).inputs, next(other.validation()).inputs)


def test_temporal_order_is_asked_after_the_last_symbol() -> None:
    work = build("temporal_order", "data.batch_size=5")
    batch = next(work.batches(0))
    outputs = torch.zeros(5, 30, 4)
    outputs[torch.arange(5), -1, batch.targets] = 20.0
    assert work.loss(outputs, batch.targets).item() < 1e-6
    assert work.metrics(outputs, batch.targets)["accuracy"].item() == 1.0
    assert work.metrics(outputs.flip(1), batch.targets)["accuracy"].item() < 1.0
