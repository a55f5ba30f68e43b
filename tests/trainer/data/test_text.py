"""Text: read in parallel streams, one character predicted from those before it."""

import math
import os
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from runner.errors import UserError
from tests.trainer.options import option
from trainer import data
from trainer.data import text
from trainer.data.text import Text, encode, read


def build(path: Path, **values: Any) -> Text:
    dataset = data.build(option("data", "text", path=str(path), **values), seed=1)
    assert isinstance(dataset, Text)
    return dataset


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "small.txt"
    path.write_text("a gradient is a product of factors; clip it, then step.\n" * 72, encoding="utf-8")
    return path


def test_the_default_text_is_real_and_whole() -> None:
    assert len(read(None)) > 400_000
    dataset = data.build(option("data", "text"), seed=1)
    assert math.log(dataset.outputs) == pytest.approx(4.63, abs=0.05)
    assert len(dataset.facts["sha256"]) == 64


def test_it_is_read_in_streams_and_predicts_the_next_character(path: Path) -> None:
    content = path.read_text(encoding="utf-8")
    dataset = build(path, batch_size=4, window=10)
    length = int(len(content) - int(len(content) * 0.1)) // 4
    first, second = islice(dataset.batches(0), 2)
    for row in range(4):
        expected = content[row * length : row * length + 21]
        inputs, targets = (
            "".join(dataset.characters[index] for index in torch.cat(rows))
            for rows in ((first.inputs[row], second.inputs[row]), (first.targets[row], second.targets[row]))
        )
        assert inputs == expected[:20]
        assert targets == expected[1:21]
    assert (first.continues, second.continues) == (False, True)


@pytest.mark.parametrize("content", ["", "a", "ba\nab", "na\u00efve \u6f22\u5b57 \U0001f600 a\U0010ffff\0"])
def test_characters_are_indexed_in_ascending_order(content: str) -> None:
    characters, indices = encode(content)
    assert characters == sorted(set(content))
    assert indices.dtype == torch.int64
    assert indices.tolist() == [characters.index(character) for character in content]


def test_training_and_validation_text_do_not_overlap(tmp_path: Path) -> None:
    path = tmp_path / "numbers.txt"
    path.write_text("".join(chr(0x4E00 + number) for number in range(2000)), encoding="utf-8")
    dataset = build(path, batch_size=4, window=8)
    windows = math.ceil((1800 // 4 - 1) / 8)
    training = {n for batch in islice(dataset.batches(0), windows) for n in batch.inputs.flatten().tolist()}
    held_out = {n for batch in dataset.validation() for n in batch.targets.flatten().tolist()}
    assert not training & held_out
    assert len(training) > 1700
    assert len(held_out) > 180


def test_a_text_that_is_too_short_is_refused(path: Path) -> None:
    path.write_text("short " * 50, encoding="utf-8")
    with pytest.raises(UserError, match="300 characters are too few"):
        build(path)


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        build(path)
    message = str(caught.value)
    assert message.startswith(f"data.path={path}: ")
    assert "\n" not in message
    return message.removeprefix(f"data.path={path}: ")


def test_a_file_that_cannot_be_read_is_named_in_one_line(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refused(tmp_path / "missing.txt") == "no such file"
    assert refused(tmp_path) == "not a file"
    path.write_bytes(b"abc\xff")
    assert refused(path) == "not UTF-8 (byte 3)"
    monkeypatch.setattr(text, "LARGEST", 3)
    assert refused(path) == "4 bytes; the whole text is held in memory, and 3 are the most"
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # a test that runs as root may read everything
    assert refused(path) == "cannot be read"


class Next(nn.Module):
    """Predicts, with certainty, the character whose index is one higher; it counts its calls as its state."""

    def __init__(self, outputs: int, score: float = 1e4):
        super().__init__()
        self.outputs, self.score = outputs, score

    def forward(self, inputs: Tensor, state: int | None) -> tuple[Tensor, int]:
        scores = torch.zeros(*inputs.shape, self.outputs)
        return scores.scatter(-1, ((inputs + 1) % self.outputs).unsqueeze(-1), self.score), (state or 0) + 1


def test_the_sample_is_drawn_from_the_predictions(path: Path) -> None:
    dataset, cpu = build(path, sample=5), torch.device("cpu")
    start = dataset.characters.index("\n")
    expected = "".join(dataset.characters[(start + step) % dataset.outputs] for step in range(1, 6))
    assert dataset.sample(Next(dataset.outputs), cpu) == expected
    assert dataset.sample(Next(dataset.outputs, score=math.nan), cpu) is None
    uniform = Next(dataset.outputs, score=0.0)
    assert dataset.sample(uniform, cpu) == dataset.sample(uniform, cpu)  # its own generator
    assert build(path, sample=0).sample(uniform, cpu) is None
