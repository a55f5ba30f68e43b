"""Models. Each option of conf/model/ has a file of the same name here, with `build(config, inputs, outputs, kind)`.

Every model is called as `outputs, state = model(inputs, state)`. The hidden state is None at the start of a
sequence, and stays None for a model without one.
"""

from typing import Any

import torch
from torch import nn

from trainer.config.model import Model
from trainer.config.options import builder

HiddenState = Any  # a tensor, a tuple of tensors, or None


def build(config: Model, inputs: int, outputs: int, kind: str) -> nn.Module:
    """The model that a configuration describes, for data of this kind with this number of inputs and outputs."""
    model: nn.Module = builder(__name__, "model", config.name)(config, inputs, outputs, kind)
    return model


def detach_state(state: HiddenState) -> HiddenState:
    """The same hidden state without its autograd graph, which truncates back-propagation through time."""
    if state is None:
        return None
    return state.detach() if hasattr(state, "detach") else tuple(part.detach() for part in state)


def clone_state(state: HiddenState, device: torch.device) -> HiddenState:
    """A detached copy of a hidden state, on a device."""
    if state is None:
        return None
    if hasattr(state, "detach"):
        return state.detach().to(device, copy=True)
    return tuple(clone_state(part, device) for part in state)
