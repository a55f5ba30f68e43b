"""Commands that repeat a run with other settings."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import yaml

OVERRIDES = Path(".hydra") / "overrides.yaml"  # in a run's folder


def has_overrides(run: Path) -> bool:
    """Whether the overrides of a run are known; those of a run that was started from Python are not."""
    return (run / OVERRIDES).is_file()


def repeat_command(run: Path, overrides: Sequence[str]) -> str:
    """The command that repeats a run with other overrides, quoted for a shell.

    The run's own overrides of the same keys are left out, and those of a whole group where its option is chosen anew.
    """
    text = (run / OVERRIDES).read_text(encoding="utf-8") if has_overrides(run) else ""
    own = [str(line) for line in yaml.safe_load(text) or []]
    keys = [line.partition("=")[0] for line in overrides]
    groups = [key for key in keys if "." not in key]
    kept = [line for line in own if not _is_replaced(line, keys, groups)]
    return shlex.join(["python", "train.py", *kept, *overrides])


def _is_replaced(line: str, keys: Sequence[str], groups: Sequence[str]) -> bool:
    key = re.match(r"[+~]*([^=@]*)", line)
    name = key[1] if key else ""
    return name in ("resume", *keys) or name.startswith("sweep.") or name.partition(".")[0] in groups
