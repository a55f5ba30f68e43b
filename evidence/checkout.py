"""Copies of this checkout, which tests and scripts may modify."""

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]


def files() -> list[Path]:
    """The files that git tracks or would track, relative to the root, without deleted files."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for line in listed.splitlines() if (ROOT / (path := Path(line))).is_file()]


def copy(folder: Path, chosen: Iterable[Path]) -> Path:
    """Copies the chosen files of the checkout into a folder, and returns the folder."""
    for path in chosen:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / path)
    return folder
