"""Checkpoints: written atomically, checked for damage before they are loaded; the newest few and the best are kept.

A file is the zip archive that `torch.save` writes, which has a CRC32 of every record. Nothing is unpickled before all
of them match, and then only tensors and plain values.
"""

import logging
import os
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from runner.errors import UserError
from runner.runs.files import add_path_to_oserror, part_path, remove_part_files, sync_folder, write_atomically

FORMAT = 5  # files of formats up to 4 have a checksum after the archive, and do not name their format

log = logging.getLogger(__name__)


class OtherFormatError(UserError):
    """An undamaged checkpoint whose content has another format than FORMAT."""


def save(folder: Path, content: dict[str, Any], *, keep: int) -> Path:
    """Writes checkpoints/step_<step>.pt, with the step in `content`, and deletes all but the newest `keep`.

    content: tensors, plain values and containers of them. FORMAT is added under "format".
    """
    path = _path(folder, content["step"])
    _write(path, content)
    for old in step_files(folder)[:-keep]:
        old.unlink()
    return path


def save_best(folder: Path, content: dict[str, Any]) -> Path:
    """Writes checkpoints/best.pt, with the same content as any other checkpoint."""
    path = folder / "checkpoints" / "best.pt"
    _write(path, content)
    return path


def step_files(folder: Path) -> list[Path]:
    """The files checkpoints/step_<step>.pt of a run, sorted by step."""
    paths = [path for path in (folder / "checkpoints").glob("step_*.pt") if path.stem[5:].isdecimal()]
    return sorted(paths, key=_step)


def _step(path: Path) -> int:
    return int(path.stem[5:])


def _path(folder: Path, step: int | str) -> Path:
    return folder / "checkpoints" / f"step_{step}.pt"


def find(folder: Path, which: str) -> Path:
    """The path of a checkpoint.

    which: `best`, `last`, a step, or a path itself. Raises UserError for `last` if the run has no checkpoint.
    """
    if which == "best":
        return folder / "checkpoints" / "best.pt"
    if which.isdecimal():
        return _path(folder, which)
    if which != "last":
        return Path(which)
    if (found := load_newest(folder)) is None:
        raise UserError(f"{folder}: has no checkpoint")
    return found[0]


def load_newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Loads the newest undamaged checkpoint; returns its path and content, or None if the run has no checkpoint.

    Each newer, damaged one is named in a warning. Raises UserError if all are damaged, and OtherFormatError if one has
    another format, rather than resuming from an older one.
    """
    best = folder / "checkpoints" / "best.pt"
    files = [*([best] if best.exists() else []), *reversed(step_files(folder))]
    loaded: list[tuple[Path, dict[str, Any]]] = []
    errors: list[UserError] = []
    for path in files:
        try:
            loaded.append((path, load(path)))
        except OtherFormatError:
            raise
        except UserError as error:
            errors.append(error)
            log.warning("%s; it is skipped", error)
        if loaded and loaded[-1][0] != best:
            break  # the remaining ones are older
    if files and not loaded:
        line = f"none of {len(files)} checkpoints can be loaded: {errors[0]}"
        raise UserError(f"{line}; if they are deleted, the run starts at step 1")
    return max(loaded, key=lambda pair: pair[1]["step"] + 0.5 * (pair[0] != best), default=None)


def quarantine_corrupt(folder: Path, chosen: Path | None, step: int) -> None:
    """Deletes half-written files and renames damaged ones to .damaged, before a run is resumed after `step`.

    A damaged file with a higher step would count among the newest, and undamaged ones would be deleted instead of it.
    chosen: the checkpoint that the run is resumed from. If that is best.pt, the run was killed before it wrote
    step_<step>.pt, so best.pt is copied to step_<step>.pt.
    """
    remove_part_files(folder)
    remove_part_files(folder / "checkpoints")
    for path in step_files(folder):
        if _step(path) >= step and path != chosen:
            try:
                load(path)
            except UserError:
                path.rename(path.with_suffix(".pt.damaged"))
    if chosen is not None and chosen.stem == "best":
        write_atomically(_path(folder, step), chosen.read_bytes(), sync=True)


def load(path: Path) -> dict[str, Any]:
    """Loads the content of a checkpoint, without executing anything in it.

    Raises UserError for a file that is missing, damaged or not a checkpoint of this program.
    """
    try:
        with path.open("rb") as file:
            _check_archive(file, path)
            file.seek(0)
            with warnings.catch_warnings(action="ignore"):  # a foreign file is refused in one line, without warnings
                content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except UserError:
        raise
    except IsADirectoryError:
        raise UserError(f"{path}: a folder; name a file, such as {path}/checkpoints/best.pt") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:
        raise UserError(f"{path}: refused, since it holds more than tensors and plain values") from error
    if not isinstance(content, dict) or not isinstance(content.get("step"), int):
        raise UserError(f"{path}: not a checkpoint of this program")
    if content.get("format") != FORMAT:
        raise OtherFormatError(
            f"{path}: a checkpoint in another format than this program's {FORMAT}, such as an older version's"
        )
    return content


def _check_archive(file: IO[bytes], path: Path) -> None:
    """Raises UserError unless the file is a zip archive whose every record has the CRC32 that the archive names."""
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
            # torch neither reads nor checks a record that its attributes mark as a folder.
            with_attributes = [entry.filename for entry in archive.infolist() if entry.external_attr]
    except Exception as error:  # zipfile raises errors of many types for damaged headers
        raise UserError(f"{path}: damaged, or not a checkpoint of this program") from error
    if damaged is not None:
        raise UserError(f"{path}: damaged: the CRC32 of {damaged} does not match")
    if with_attributes:
        raise UserError(f"{path}: damaged: {with_attributes[0]} has file attributes")


def _write(path: Path, content: dict[str, Any]) -> None:
    """Writes the content with its format to a temporary file, syncs it to the disk, and renames it to `path`.

    A crash at any moment leaves the old file as it was. Raises OSError with the file's name if it cannot be
    written.
    """
    part = part_path(path)
    with add_path_to_oserror(path):
        if not path.parent.is_dir():
            path.parent.mkdir()
            sync_folder(path.parent.parent)
        try:
            with part.open("wb") as file:
                _save(content | {"format": FORMAT}, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            sync_folder(path.parent)
        except OSError:
            part.unlink(missing_ok=True)  # leaves room on the disk for other checkpoints
            raise


def _save(content: dict[str, Any], file: IO[bytes]) -> None:
    """Saves the content by `torch.save`; raises the OSError of a failed write."""
    try:
        torch.save(content, file)
    except RuntimeError as error:  # torch raises its own error while it handles the OSError
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
