"""Text as a stream of characters: the topics of Python's own help, or any file."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradclip.errors import show
from runner.errors import UserError
from trainer import config as schema
from trainer.data.base import Batch, Dataset, accuracy


def build(config: schema.Text, seed: int) -> "Text":
    text = read(config.path)
    return Text(config, text, seed)


def read(path: str | None) -> str:
    """A file's text, or the help topics that come with Python (they differ a little between its versions)."""
    if path is None:
        from pydoc_data.topics import topics

        return "\n\n".join(topics[name] for name in sorted(topics))
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"data.path={path}: not UTF-8 (byte {error.start})") from error
    except OSError as error:
        raise UserError(f"data.path={path}: {error.strerror}") from error


class Text(Dataset):
    """The text as `batch_size` parallel streams, cut into windows that go on where the last ones ended.

    A batch is [batch_size, window] of characters' numbers, its targets the same one character later.
    """

    def __init__(self, config: schema.Text, text: str, seed: int):
        self.characters, data = numbered(text)
        held_out = int(len(data) * config.validation)
        least = config.batch_size * 2
        if min(held_out, len(data) - held_out) < least:
            raise UserError(
                f"data.path={show(config.path)}: {len(text)} characters are too few: training and validation "
                f"(data.validation={config.validation}) need {least} each for data.batch_size={config.batch_size}"
            )
        self.inputs = self.outputs = len(self.characters)
        self.facts = {
            "source": config.path or "pydoc_data.topics",
            "characters": f"{len(text)}, {self.inputs} different ones",
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
        }
        self._training = _streams(data[: len(data) - held_out], config.batch_size)
        self._validation = _streams(data[len(data) - held_out :], config.batch_size)
        self._window, self._length, self._seed = config.window, config.sample, seed

    def batches(self, start: int) -> Iterator[Batch]:
        windows = list(_windows(self._training, self._window))
        while True:
            yield windows[start % len(windows)]
            start += 1

    def validation(self) -> Iterator[Batch]:
        return _windows(self._validation, self._window)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return accuracy(outputs, targets)

    def sample(self, model: nn.Module, device: torch.device) -> str | None:
        """Characters drawn one after the other from the model's own predictions; the same for the same seed."""
        if self._length == 0:
            return None
        random = torch.Generator().manual_seed(self._seed)
        character = torch.tensor([[self.characters.index("\n") if "\n" in self.characters else 0]], device=device)
        text, state = "", None
        for _ in range(self._length):
            scores, state = model(character, state)
            chances = torch.softmax(scores[0, -1].float().cpu(), -1)
            if not bool(chances.isfinite().all()):
                return None  # the model diverged
            number = int(torch.multinomial(chances, 1, generator=random))
            text += self.characters[number]
            character = torch.tensor([[number]], device=device)
        return text


def numbered(text: str) -> tuple[list[str], Tensor]:
    """The different characters in order, and the number of each one of the text, [length].

    Counted and looked up in arrays: a run builds its data twice, to check it and to train.
    """
    codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4").astype(np.int64)
    there = np.bincount(codes) > 0
    characters = [chr(code) for code in np.flatnonzero(there)]
    return characters, torch.from_numpy((there.cumsum() - 1)[codes])


def _streams(data: Tensor, rows: int) -> Tensor:
    """[rows, length]: the text cut into equal pieces, one below the other."""
    length = len(data) // rows
    return data[: rows * length].view(rows, length)


def _windows(streams: Tensor, window: int) -> Iterator[Batch]:
    """One pass over the streams; the last window may be shorter."""
    last = streams.shape[1] - 1
    for start in range(0, last, window):
        end = min(start + window, last)
        yield Batch(streams[:, start:end], streams[:, start + 1 : end + 1], continues=start > 0)
