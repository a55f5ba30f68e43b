"""Models. Each file here has a `build(config, inputs, outputs, kind)`, found by the option's name in conf/model/.

Every model is called as `outputs, state = model(inputs, state)`; state is None at the start, and stays
None for a model that remembers nothing.
"""

from importlib import import_module
from typing import Any

import torch
from torch import nn

from trainer import config as schema

State = Any  # a tensor, a tuple of tensors, or None


def build(config: schema.Model, inputs: int, outputs: int, kind: str) -> nn.Module:
    """The model of a configuration, for data of a kind with so many inputs and outputs."""
    model: nn.Module = import_module(f"{__name__}.{config.name}").build(config, inputs, outputs, kind)
    return model


def detach(state: State) -> State:
    """The state without its history: where back-propagation through time is truncated."""
    if state is None:
        return None
    return state.detach() if hasattr(state, "detach") else tuple(part.detach() for part in state)


def copied(state: State, device: torch.device) -> State:
    """The state's values, on a device, in memory of their own."""
    if state is None:
        return None
    if hasattr(state, "detach"):
        return state.detach().to(device, copy=True)
    return tuple(copied(part, device) for part in state)
