"""Files that are whole at every moment, and errors of writing that name their file."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM}


def write_atomically(path: Path, content: bytes, *, sync: bool = False) -> None:
    """A reader sees the old file or the new one, never half of it; with `sync` a power cut changes nothing of that."""
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
    """Where a file is written before it gets its name."""
    return path.with_name(f".{path.name}.part")


def remove_part_files(folder: Path) -> None:
    """Deletes what writers that were killed left behind."""
    for part in folder.glob(".*.part"):
        part.unlink()


def sync_folder(folder: Path) -> None:
    """Makes a renaming in a folder last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def add_path_to_oserror(path: Path) -> Iterator[None]:
    """An error of writing in the block names the file: the system's own often has no name."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def is_unwritable(error: BaseException) -> bool:
    """Whether the disk, and not the program, is the reason: full, over its quota, broken or closed to us."""
    return isinstance(error, OSError) and error.errno in UNWRITABLE
