"""Options as their own YAML file gives them, and which of them exist: any model or data set may have been deleted."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from trainer.project import PROJECT


def option_names(group: str) -> list[str]:
    """The options of a group, which its folder lists."""
    return sorted(PROJECT.groups[group].options)


def option(group: str, name: str, **values: Any) -> Any:
    """The option that conf/<group>/<name>.yaml gives, with other values for some keys."""
    given = yaml.safe_load((PROJECT.conf / group / f"{name}.yaml").read_text(encoding="utf-8"))
    del given["defaults"]
    return PROJECT.groups[group].options[name](**given | values)


def missing_options(overrides: Iterable[str]) -> list[str]:
    """The overrides among these that choose a model, a data set or an experiment that does not exist."""
    return [f"{group}={name}" for group, _, choice in (override.partition("=") for override in overrides)
            if group in ("model", "data", "experiment") for name in choice.split(",")
            if not (PROJECT.conf / group / f"{name}.yaml").exists()]  # fmt: skip


def require_options(*overrides: str) -> None:
    """Skips the test if an option that these overrides choose does not exist."""
    if absent := missing_options(overrides):
        pytest.skip(f"there is no {' and no '.join(absent)}")


def require_precision(overrides: Iterable[str]) -> None:
    """Skips the test where torch lacks the LSTM at the precision that these overrides choose, tried by running one."""
    chosen = dict(override.partition("=")[::2] for override in overrides)
    precision = chosen.get("device.precision", "float32")
    if chosen.get("model") != "lstm" or precision == "float32":
        return
    try:
        with torch.autocast("cpu", dtype=getattr(torch, precision)):
            outputs, _ = nn.LSTM(4, 4)(torch.zeros(2, 2, 4))
        outputs.sum().backward()
    except RuntimeError as error:
        pytest.skip(f"torch has no {precision} LSTM on this CPU: {str(error).partition('. ')[0]}")
