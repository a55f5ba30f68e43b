"""Options with the values of their YAML files, and skips of tests whose model or data set a fork has deleted."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from trainer.project import PROJECT


def option_names(group: str) -> list[str]:
    """The names of the options of a group."""
    return sorted(PROJECT.groups[group].options)


def option(group: str, name: str, **values: Any) -> Any:
    """The option with the values of conf/<group>/<name>.yaml, except those given here."""
    configured = yaml.safe_load((PROJECT.conf / group / f"{name}.yaml").read_text(encoding="utf-8"))
    del configured["defaults"]
    return PROJECT.groups[group].options[name](**configured | values)


def missing_options(overrides: Iterable[str]) -> list[str]:
    """Those of the overrides that choose a model, a data set, an optimizer or an experiment that does not exist."""
    return [f"{group}={name}" for group, _, choice in (override.partition("=") for override in overrides)
            if group in ("model", "data", "optimizer", "experiment") for name in choice.split(",")
            if not (PROJECT.conf / group / f"{name}.yaml").exists()]  # fmt: skip


def require_options(*overrides: str) -> None:
    """Skips the test if an option that these overrides choose does not exist."""
    if absent := missing_options(overrides):
        pytest.skip(f"there is no {' and no '.join(absent)}")


def require_precision(overrides: Iterable[str]) -> None:
    """Skips the test if these overrides choose an LSTM at a precision at which torch cannot run one on this CPU."""
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
