"""Checkpoints: written whole or not at all, proved whole before they are read, the newest few and the best one kept.

A file is an archive that `torch.load` opens, and behind it one line of ours: the format, and the SHA-256 of
everything before the line. Nothing is unpickled before the sum agrees, and then only tensors and plain values.
"""

import hashlib
import logging
import os
import re
import warnings
from pathlib import Path
from typing import IO, Any

import torch

from runner.errors import UserError
from runner.runs.files import naming, part_of, remove_parts, sync_folder, write_atomically

FORMAT = 4
SEAL = "\ngradclip checkpoint, format {format}, sha256 {sum}\n"
SEAL_LENGTH = len(SEAL.format(format=FORMAT, sum="0" * 64))

log = logging.getLogger(__name__)


def save(folder: Path, content: dict[str, Any], *, keep: int) -> Path:
    """Writes checkpoints/step_<step>.pt, with the step in `content`, and deletes all but the newest `keep`.

    content: tensors, plain values and containers of them.
    """
    path = _path(folder, content["step"])
    _write(path, content)
    for old in steps(folder)[:-keep]:
        old.unlink()
    return path


def save_best(folder: Path, content: dict[str, Any]) -> Path:
    """Writes checkpoints/best.pt, which has everything that the others have."""
    path = folder / "checkpoints" / "best.pt"
    _write(path, content)
    return path


def steps(folder: Path) -> list[Path]:
    """The checkpoints of a run by their steps, the newest last."""
    found = [path for path in (folder / "checkpoints").glob("step_*.pt") if path.stem[5:].isdecimal()]
    return sorted(found, key=_step)


def _step(path: Path) -> int:
    return int(path.stem[5:])


def _path(folder: Path, step: int | str) -> Path:
    return folder / "checkpoints" / f"step_{step}.pt"


def find(folder: Path, which: str) -> Path:
    """The file that `best`, `last`, a step or a path means; raises UserError if the run has no last one."""
    if which == "best":
        return folder / "checkpoints" / "best.pt"
    if which.isdecimal():
        return _path(folder, which)
    if which != "last":
        return Path(which)
    if (found := newest(folder)) is None:
        raise UserError(f"{folder}: has no checkpoint")
    return found[0]


def newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest good checkpoint and its content; a warning names each newer one that is not good.

    None if there is no checkpoint at all; raises UserError if none of them is good.
    """
    best = folder / "checkpoints" / "best.pt"
    files = [*([best] if best.exists() else []), *reversed(steps(folder))]
    good: list[tuple[Path, dict[str, Any]]] = []
    bad: list[UserError] = []
    for path in files:
        try:
            good.append((path, load(path)))
        except UserError as mistake:
            bad.append(mistake)
            log.warning("%s; it is skipped", mistake)
        if good and good[-1][0] != best:
            break  # those left are older
    if files and not good:
        raise UserError(f"none of {len(files)} checkpoints is good: {bad[0]}; with them moved away it starts anew")
    return max(good, key=lambda pair: pair[1]["step"] + 0.5 * (pair[0] != best), default=None)


def quarantine_corrupt(folder: Path, chosen: Path | None, step: int) -> None:
    """Before a run is resumed after `step`: deletes half-written files, and renames damaged ones to .damaged.

    A damaged file with a higher step would otherwise count as one of the newest, and push good ones out.
    Where best.pt was chosen, the run was killed before it could write step_<step>.pt, so best.pt is copied to it.
    """
    remove_parts(folder)
    remove_parts(folder / "checkpoints")
    for path in steps(folder):
        if _step(path) >= step and path != chosen:
            try:
                load(path)
            except UserError:
                path.rename(path.with_suffix(".pt.damaged"))
    if chosen is not None and chosen.stem == "best":
        write_atomically(_path(folder, step), chosen.read_bytes(), sync=True)


def load(path: Path) -> dict[str, Any]:
    """A checkpoint's content: everything that a run depends on. Nothing in it is executed.

    Raises UserError for anything that is not a whole checkpoint of this program.
    """
    try:
        with path.open("rb") as file:
            _check_seal(file, path)
            file.seek(0)
            with warnings.catch_warnings(action="ignore"):  # what is foreign is refused, and in one line
                content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:
        raise UserError(f"{path}: refused, since it holds more than tensors and plain values") from error
    if not isinstance(content, dict) or not isinstance(content.get("step"), int):
        raise UserError(f"{path}: not a checkpoint of this program")
    return content


def _check_seal(file: IO[bytes], path: Path) -> None:
    """Raises UserError unless the file ends in a line of ours whose sum is that of everything before it."""
    length = file.seek(0, os.SEEK_END) - SEAL_LENGTH
    file.seek(max(length, 0))
    end = file.read().decode("ascii", errors="replace")
    sealed = re.fullmatch(re.escape(SEAL).replace(r"\{format\}", r"(\d+)").replace(r"\{sum\}", "([0-9a-f]{64})"), end)
    if sealed is None:
        raise UserError(f"{path}: not a whole checkpoint of this program")
    if sealed[1] != str(FORMAT):
        raise UserError(f"{path}: a checkpoint in format {sealed[1]}, where this program reads format {FORMAT}")
    digest, left = hashlib.sha256(), length
    file.seek(0)
    while left and (chunk := file.read(min(left, 1 << 20))):
        digest.update(chunk)
        left -= len(chunk)
    if digest.hexdigest() != sealed[2]:
        raise UserError(f"{path}: damaged, since its checksum is another")


class _HashingWriter:
    """A file that sums what is written to it, and keeps the error that torch turns into one of its own."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            written = self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.digest.update(data)
        return written

    def flush(self) -> None:
        self._file.flush()


def _write(path: Path, content: dict[str, Any]) -> None:
    """To a file beside it, to the disk, and only then under its name: a crash leaves the old one whole."""
    part = part_of(path)
    with naming(path):
        if not path.parent.is_dir():
            path.parent.mkdir()
            sync_folder(path.parent.parent)
        try:
            with part.open("wb") as file:
                _write_sealed(file, content)
                os.fsync(file.fileno())
            part.replace(path)
            sync_folder(path.parent)
        except OSError:
            part.unlink(missing_ok=True)  # room for those that are good
            raise


def _write_sealed(file: IO[bytes], content: dict[str, Any]) -> None:
    summed = _HashingWriter(file)
    try:
        torch.save(content, summed)  # type: ignore[arg-type]  # it asks for no more than this
    except RuntimeError:
        if summed.error is not None:
            raise summed.error from None
        raise
    file.write(SEAL.format(format=FORMAT, sum=summed.digest.hexdigest()).encode())
    file.flush()
