"""The norm of a step's update: how far it moves the weights."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gradclip.norms import tensor_norms


def snapshot(model: nn.Module) -> list[Tensor]:
    """A copy of every parameter, in the order of `parameters()`. It takes as much memory as the weights."""
    return [parameter.detach().clone() for parameter in model.parameters()]


def update_norms(model: nn.Module, before: Sequence[Tensor]) -> Tensor:
    """[2]: the 2-norm of all weights, and that of their change since a snapshot. The snapshot is overwritten."""
    weights = [parameter.detach() for parameter in model.parameters()]
    for copy, weight in zip(before, weights, strict=True):
        copy.sub_(weight)
    return torch.stack([tensor_norms(tensors, 2.0).square().sum().sqrt() for tensors in (weights, list(before))])
