"""Atomic writes, and write errors that name their file."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WRITE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM}


def write_atomically(path: Path, content: bytes, *, sync: bool = False) -> None:
    """Writes a file so that a reader sees the old content or the new one. sync: also after a power failure."""
    part = part_path(path)
    with add_path_to_oserror(path):
        with part.open("wb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
        if sync:
            sync_folder(path.parent)


def part_path(path: Path) -> Path:
    """The path of the temporary file that is written before it is renamed to `path`."""
    return path.with_name(f".{path.name}.part")


def remove_part_files(folder: Path) -> None:
    """Deletes the temporary files of writers that were killed."""
    for part in folder.glob(".*.part"):
        part.unlink()


def sync_folder(folder: Path) -> None:
    """Syncs a folder to the disk, so that a rename in it survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def add_path_to_oserror(path: Path) -> Iterator[None]:
    """Adds the path to an OSError raised in the block, which often has none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def is_unwritable(error: BaseException) -> bool:
    """Whether an error means a full, failing or read-only disk, a used-up quota, or no permission to write."""
    return isinstance(error, OSError) and error.errno in WRITE_ERRORS
