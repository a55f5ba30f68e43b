"""Text as streams of characters: the topics of Python's own help, or any file."""

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradclip.errors import format_value
from runner.errors import UserError
from trainer.config.data import text as schema
from trainer.data.base import Batch, Dataset, accuracy
from trainer.data.text_files import Texts, read_texts


def build(config: schema.Text, seed: int) -> "Text":
    return Text(config, read_texts(config.path), seed)


class Text(Dataset):
    """The text as `batch_size` parallel streams, cut into consecutive windows.

    A batch is [batch_size, window] of character indices; its targets are those one character later.
    """

    def __init__(self, config: schema.Text, texts: Texts, seed: int):
        held_out = int(len(texts.text) * config.validation)
        _check_sizes(config, len(texts.text), held_out)
        self.characters, data = encode(texts.text)
        self.inputs = self.outputs = len(self.characters)
        more = f" and {len(texts.names) - 3} more" if len(texts.names) > 3 else ""
        self.facts = {
            "files": ", ".join(texts.names[:3]) + more,
            "characters": f"{len(texts.text):,}",
            "alphabet": f"{self.inputs} different characters",
            "sha256": hashlib.sha256(texts.text.encode()).hexdigest(),
        }
        self._training = _streams(data[: len(data) - held_out], config.batch_size)
        self._validation = _streams(data[len(data) - held_out :], config.batch_size)
        self._window, self._sample_length, self._seed = config.window, config.sample, seed

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the text. It does not depend on the names and encodings of the files."""
        return self.facts["sha256"]

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
        if self._sample_length == 0:
            return None
        random = torch.Generator().manual_seed(self._seed)
        character = torch.tensor([[self.characters.index("\n") if "\n" in self.characters else 0]], device=device)
        text, state = "", None
        for _ in range(self._sample_length):
            scores, state = model(character, state)
            probabilities = torch.softmax(scores[0, -1].float().cpu(), -1)
            if not bool(probabilities.isfinite().all()):
                return None
            index = int(torch.multinomial(probabilities, 1, generator=random))
            text += self.characters[index]
            character = torch.tensor([[index]], device=device)
        return text


def _check_sizes(config: schema.Text, length: int, held_out: int) -> None:
    """Raises UserError, which names sizes that fit, where the text is too short for the rows, or a row for a window."""
    rows, training, where = config.batch_size, length - held_out, f"data.path={format_value(config.path)}"
    most_rows = min(held_out, training) // 2
    if rows > most_rows:
        shares = [share / 1000 for share in range(1, 1000)]
        shares = [share for share in shares if 2 * rows <= int(length * share) <= length - 2 * rows]
        fits = [f"data.batch_size of at most {most_rows}"] if most_rows > 0 else []
        fits += [f"data.validation from {shares[0]} to {shares[-1]}"] if shares else []
        fitting = (
            " fits, or ".join(fits) + ("" if len(fits) > 1 else " fits") if fits else "no size fits so short a text"
        )
        raise UserError(
            f"{where}: {length} characters are too few for data.batch_size={rows} and data.validation="
            f"{config.validation}: {training} for training and {held_out} held out, where each part needs {2 * rows}, "
            f"two for each row; {fitting}"
        )
    if config.window > (most := training // rows - 1):
        fewer = training // (config.window + 1)
        fitting = f", or data.batch_size of at most {fewer}" if fewer else ""
        raise UserError(
            f"data.window={config.window}: each of the data.batch_size={rows} rows has {most + 1} characters "
            f"for training, of which the first {most} are inputs; data.window of at most {most} fits{fitting}"
        )


def encode(text: str) -> tuple[list[str], Tensor]:
    """The different characters in ascending order, and the index of each character of the text, [length]."""
    codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4").astype(np.int64)
    occurs = np.bincount(codes) > 0
    characters = [chr(code) for code in np.flatnonzero(occurs)]
    return characters, torch.from_numpy((occurs.cumsum() - 1)[codes])


def _streams(data: Tensor, rows: int) -> Tensor:
    """The text as rows of equal length, [rows, length], without the remainder."""
    length = len(data) // rows
    return data[: rows * length].view(rows, length)


def _windows(streams: Tensor, window: int) -> Iterator[Batch]:
    """One pass over the streams; the last window may be shorter."""
    last = streams.shape[1] - 1
    for start in range(0, last, window):
        end = min(start + window, last)
        yield Batch(streams[:, start:end], streams[:, start + 1 : end + 1], continues=start > 0)
