"""Commands that repeat a run with other settings."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

HYDRA = ".hydra"  # the folder of Hydra's own files in a run's folder


def has_overrides(run: Path) -> bool:
    """Whether the overrides of a run are known; those of a run that was started from Python are not."""
    return (run / HYDRA / "overrides.yaml").is_file()


def repeat_command(run: Path, overrides: Sequence[str]) -> str:
    """The command that repeats a run with other overrides, quoted for a shell.

    The run's own overrides of the same keys are left out, and those of a whole group where its option is chosen anew.
    """
    own = [str(line) for line in _read(run, "overrides.yaml") or []]
    keys = [line.partition("=")[0] for line in overrides]
    groups = [key for key in keys if "." not in key]
    kept = [line for line in own if not _is_replaced(line, keys, groups)]
    return shlex.join(["python", "train.py", *_searchpath(run), *kept, *overrides])


def write_overrides(run: Path, overrides: Sequence[str]) -> None:
    """Records the overrides of a run that was started from Python, as Hydra does for others."""
    (run / HYDRA).mkdir()
    (run / HYDRA / "overrides.yaml").write_text(yaml.safe_dump(list(overrides)), encoding="utf-8")


def _searchpath(run: Path) -> list[str]:
    """The override of `hydra.searchpath`, which adds options to conf/, if the run has one."""
    content: Any = _read(run, "hydra.yaml") or {}
    lines = content.get("hydra", {}).get("overrides", {}).get("hydra") or []
    return [line for line in map(str, lines) if line.startswith("hydra.searchpath=")]


def _read(run: Path, name: str) -> Any:
    path = run / HYDRA / name
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None


def _is_replaced(line: str, keys: Sequence[str], groups: Sequence[str]) -> bool:
    key = re.match(r"[+~]*([^=@]*)", line)
    name = key[1] if key else ""
    return name in ("resume", *keys) or name.startswith("sweep.") or name.partition(".")[0] in groups
