"""Temporal order: two marked symbols at the published positions, and a loss after the last symbol."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.options import option, require_options
from tests.trainer.support import inspect_output
from trainer import data


def build(seed: int = 1, **values: Any) -> data.Dataset:
    return data.build(option("data", "temporal_order", **values), seed)


@pytest.mark.parametrize("length", [10, 30, 100])
def test_the_marked_symbols_decide_the_class(length: int) -> None:
    dataset = build(length=length, batch_size=400, validation=300)
    batch, other = islice(dataset.batches(0), 2)
    (held_out,) = dataset.validation()
    assert held_out.inputs.shape == (300, length)
    assert not torch.equal(batch.inputs, other.inputs)
    positions: dict[int, set[int]] = {0: set(), 1: set()}
    for row, target in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        (first, one), (second, two) = [(index, symbol - 4) for index, symbol in enumerate(row) if symbol >= 4]
        assert target == 2 * one + two
        positions[0].add(first)
        positions[1].add(second)
    assert positions[0] == set(range(length // 10, 2 * length // 10))
    assert positions[1] == set(range(4 * length // 10, 5 * length // 10))
    assert set(batch.targets.tolist()) == {0, 1, 2, 3}
    assert set(batch.inputs.flatten().tolist()) == set(range(6))


def test_every_seed_has_its_own_sequences() -> None:
    one, other = (build(seed) for seed in (1, 2))
    assert not torch.equal(next(one.batches(0)).inputs, next(other.batches(0)).inputs)
    assert not torch.equal(next(one.validation()).inputs, next(other.validation()).inputs)


def test_only_the_output_after_the_last_symbol_counts() -> None:
    dataset = build(batch_size=5, length=30)
    batch = next(dataset.batches(0))
    outputs = torch.zeros(5, 30, 4)
    outputs[torch.arange(5), -1, batch.targets] = 20.0
    assert dataset.loss(outputs, batch.targets).item() < 1e-6
    assert dataset.metrics(outputs, batch.targets)["accuracy"].item() == 1.0
    assert dataset.metrics(outputs.flip(1), batch.targets)["accuracy"].item() < 1.0


def test_an_inspection_reads_all_time_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    require_options("model=rnn")
    pytest.importorskip("matplotlib")
    path = tmp_path / "norms.svg"
    text = inspect_output(capsys, f"model=rnn data=temporal_order model.hidden=8 --plot {path}")
    assert "for the input at time step 30, and " in text
    drawn = path.read_text()
    assert drawn.count("<!-- 2-norm of the gradient -->") == 1
    assert "<!-- time step -->" in drawn
    assert "<!-- linear2.weight (never used) -->" not in drawn
