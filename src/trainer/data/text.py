"""Text as a stream of characters: the topics of Python's own help, or any file."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradclip.errors import format_value
from runner.errors import UserError
from trainer.config.data import text as schema
from trainer.data.base import Batch, Dataset, accuracy

LARGEST = 1 << 27  # bytes of a file: the text is held in memory, at up to 20 bytes a character while it is encoded


def build(config: schema.Text, seed: int) -> "Text":
    return Text(config, read(config.path), seed)


def read(path: str | None) -> str:
    """A file's text, or the help topics that come with Python (they differ a little between its versions).

    Raises UserError for a file that is missing, unreadable, too large or not UTF-8.
    """
    if path is None:
        from pydoc_data.topics import topics

        return "\n\n".join(topics[name] for name in sorted(topics))
    try:
        if mistake := _unreadable(Path(path)):
            raise UserError(f"data.path={path}: {mistake}")
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"data.path={path}: not UTF-8 (byte {error.start})") from error
    except OSError as error:
        raise UserError(f"data.path={path}: {error.strerror}") from error


def _unreadable(path: Path) -> str | None:
    """Why a file is not read; None where it is."""
    if not path.is_file():
        return "not a file" if path.exists() else "no such file"
    if not os.access(path, os.R_OK):
        return "cannot be read"
    if (size := path.stat().st_size) > LARGEST:
        return f"{size:,} bytes; the whole text is held in memory, and {LARGEST:,} are the most"
    return None


class Text(Dataset):
    """The text as `batch_size` parallel streams, cut into consecutive windows.

    A batch is [batch_size, window] of character indices; its targets are those one character later.
    """

    def __init__(self, config: schema.Text, text: str, seed: int):
        self.characters, data = encode(text)
        held_out = int(len(data) * config.validation)
        least = config.batch_size * 2
        if min(held_out, len(data) - held_out) < least:
            raise UserError(
                f"data.path={format_value(config.path)}: {len(text)} characters are too few: training and validation "
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
        """Characters drawn one after the other from the model's own predictions; the same for the same seed.

        None where `data.sample` is 0 or a prediction is not finite.
        """
        if self._length == 0:
            return None
        random = torch.Generator().manual_seed(self._seed)
        character = torch.tensor([[self.characters.index("\n") if "\n" in self.characters else 0]], device=device)
        text, state = "", None
        for _ in range(self._length):
            scores, state = model(character, state)
            probabilities = torch.softmax(scores[0, -1].float().cpu(), -1)
            if not bool(probabilities.isfinite().all()):
                return None
            index = int(torch.multinomial(probabilities, 1, generator=random))
            text += self.characters[index]
            character = torch.tensor([[index]], device=device)
        return text


def encode(text: str) -> tuple[list[str], Tensor]:
    """The different characters in ascending order, and the index of each character of the text, [length]."""
    codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4").astype(np.int64)
    occurs = np.bincount(codes) > 0
    characters = [chr(code) for code in np.flatnonzero(occurs)]
    return characters, torch.from_numpy((occurs.cumsum() - 1)[codes])


def _streams(data: Tensor, rows: int) -> Tensor:
    """[rows, length]: the text cut into pieces of equal length; what is left over is dropped."""
    length = len(data) // rows
    return data[: rows * length].view(rows, length)


def _windows(streams: Tensor, window: int) -> Iterator[Batch]:
    """One pass over the streams; the last window may be shorter."""
    last = streams.shape[1] - 1
    for start in range(0, last, window):
        end = min(start + window, last)
        yield Batch(streams[:, start:end], streams[:, start + 1 : end + 1], continues=start > 0)
