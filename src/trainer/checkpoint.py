"""Checkpoints: written whole or not at all, the newest few and the best one kept."""

import io
import os
from pathlib import Path
from typing import Any, Protocol

import torch

from trainer.config import Mistake

FORMAT = 1


class HasState(Protocol):
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


def save(folder: Path, parts: dict[str, HasState], notes: dict[str, Any], *, keep: int) -> Path:
    """Writes checkpoints/step_<step>.pt, with the step from `notes`, and deletes all but the newest `keep`."""
    path = folder / "checkpoints" / f"step_{notes['step']}.pt"
    _write(path, parts, notes)
    for old in steps(folder)[:-keep]:
        old.unlink()
    return path


def save_best(folder: Path, parts: dict[str, HasState], notes: dict[str, Any]) -> Path:
    """Writes checkpoints/best.pt."""
    path = folder / "checkpoints" / "best.pt"
    _write(path, parts, notes)
    return path


def steps(folder: Path) -> list[Path]:
    """The checkpoints of a run by their steps, the newest last."""
    found = [path for path in (folder / "checkpoints").glob("step_*.pt") if path.stem[5:].isdecimal()]
    return sorted(found, key=lambda path: int(path.stem[5:]))


def find(folder: Path, which: str) -> Path:
    """The file that `best`, `last`, a step or a path means; raises Mistake if the run has no last one."""
    if which == "best":
        return folder / "checkpoints" / "best.pt"
    if which.isdecimal():
        return folder / "checkpoints" / f"step_{which}.pt"
    if which != "last":
        return Path(which)
    if not (found := steps(folder)):
        raise Mistake(f"{folder}: has no checkpoint")
    return found[-1]


def load(path: Path) -> dict[str, Any]:
    """A checkpoint's content: the state of each part, and the notes. Nothing in it is executed.

    Raises Mistake for anything that is not a checkpoint.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise Mistake(f"{path}: no such checkpoint") from None
    except Exception as error:
        raise Mistake(f"{path}: not a checkpoint of this program ({type(error).__name__})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise Mistake(f"{path}: not a checkpoint of this program in format {FORMAT}")
    return content


def _write(path: Path, parts: dict[str, HasState], notes: dict[str, Any]) -> None:
    """To a file beside it, to the disk, and only then under its name: a crash leaves the old one whole."""
    content = {name: part.state_dict() for name, part in parts.items()}
    buffer = io.BytesIO()
    torch.save(content | notes | {"format": FORMAT}, buffer)
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
