"""Text: parallel streams of characters, split into windows and into training and held-out text."""

import hashlib
import math
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from runner.errors import UserError
from tests.trainer.options import option
from trainer import data
from trainer.data.text import Text, encode
from trainer.data.text_files import read_texts


def build(path: Path, **values: Any) -> Text:
    dataset = data.build(option("data", "text", path=str(path), **values), seed=1)
    assert isinstance(dataset, Text)
    return dataset


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "small.txt"
    path.write_text("a gradient is a product of factors; clip it, then step.\n" * 72, encoding="utf-8")
    return path


def test_the_default_text_is_the_help_topics_of_python() -> None:
    assert len(read_texts(None).text) > 400_000
    dataset = data.build(option("data", "text"), seed=1)
    assert math.log(dataset.outputs) == pytest.approx(4.63, abs=0.05)
    assert len(dataset.facts["sha256"]) == 64


def test_the_text_is_split_into_streams_and_targets_are_the_next_characters(path: Path) -> None:
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


def refused(path: Path, **values: Any) -> str:
    with pytest.raises(UserError) as caught:
        build(path, **values)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("count", "values", "line"), [
    (300, {"batch_size": 32, "validation": 0.1},
     "300 characters are too few for data.batch_size=32 and data.validation=0.1: 270 for training and 30 held out, "
     "where each part needs 64, two for each row; data.batch_size of at most 15 fits, or data.validation from "
     "0.214 to 0.789"),
    (300, {"batch_size": 100, "validation": 0.1},
     "300 characters are too few for data.batch_size=100 and data.validation=0.1: 270 for training and 30 held out, "
     "where each part needs 200, two for each row; data.batch_size of at most 15 fits"),
    (300, {"batch_size": 4, "validation": 0.999},
     "300 characters are too few for data.batch_size=4 and data.validation=0.999: 1 for training and 299 held out, "
     "where each part needs 8, two for each row; data.validation from 0.027 to 0.976 fits"),
    (3, {"batch_size": 1, "validation": 0.5},
     "3 characters are too few for data.batch_size=1 and data.validation=0.5: 2 for training and 1 held out, where "
     "each part needs 2, two for each row; no size fits so short a text"),
    (300, {"batch_size": 8, "validation": 0.1, "window": 33},
     "data.window=33: each of the data.batch_size=8 rows has 33 characters for training, of which the first 32 are "
     "inputs; data.window of at most 32 fits, or data.batch_size of at most 7"),
])  # fmt: skip
def test_sizes_that_do_not_fit_are_refused_with_sizes_that_fit(
    path: Path, count: int, values: dict[str, Any], line: str
) -> None:
    path.write_text("abc" * (count // 3), encoding="utf-8")
    where = "" if line.startswith("data.window") else f"data.path={path}: "  # the key that is wrong
    assert refused(path, **values) == where + line


@pytest.mark.parametrize("values", [
    {"batch_size": 15, "validation": 0.1, "window": 17}, {"batch_size": 32, "validation": 0.214, "window": 6},
    {"batch_size": 32, "validation": 0.789, "window": 1}, {"batch_size": 7, "validation": 0.1, "window": 33},
])  # fmt: skip
def test_the_sizes_that_an_error_suggests_fit(path: Path, values: dict[str, Any]) -> None:
    path.write_text("abc" * 100, encoding="utf-8")
    dataset = build(path, **values)
    assert len(next(dataset.batches(0)).inputs) == values["batch_size"]
    assert list(dataset.validation())


def test_the_facts_are_the_files_the_characters_the_alphabet_and_the_hash(tmp_path: Path) -> None:
    for name in "edcba":
        (tmp_path / f"{name}.txt").write_text(f"{name} text\n" * 99, encoding="utf-8")
    dataset = build(tmp_path / "*.txt")
    text = "".join(f"{name} text\n" * 99 for name in "abcde")
    assert dataset.facts == {
        "files": f"{tmp_path}/a.txt, {tmp_path}/b.txt, {tmp_path}/c.txt and 2 more",
        "characters": "3,465",
        "alphabet": "9 different characters",
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


def test_the_fingerprint_depends_on_the_content_alone(path: Path, tmp_path: Path) -> None:
    other, changed = tmp_path / "other.txt", tmp_path / "changed.txt"
    content = path.read_text(encoding="utf-8")
    other.write_bytes(content.replace("\n", "\r\n").encode("utf-16"))
    changed.write_text(content.replace("clip", "clop"), encoding="utf-8")
    assert build(path).fingerprint == build(other).fingerprint != build(changed).fingerprint


class Next(nn.Module):
    """Predicts the character whose index is one higher, with certainty at the default score; its state counts calls."""

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
    assert dataset.sample(uniform, cpu) == dataset.sample(uniform, cpu)  # drawn from a generator seeded at each call
    assert build(path, sample=0).sample(uniform, cpu) is None
