"""The norm of a step's update: how far it moves the weights."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gradclip.norms import tensor_norms


def snapshot(model: nn.Module) -> list[Tensor]:
    """A copy of every parameter, in the order of `parameters()`. It takes as much memory as the weights."""
    return [parameter.detach().clone() for parameter in model.parameters()]


def update_norms(model: nn.Module, before: Sequence[Tensor]) -> Tensor:
    """[2]: the 2-norm of all weights that are trained, and that of their change since a snapshot.

    Those that require no gradient do not count. The snapshot is overwritten.
    """
    trained = [(parameter.detach(), copy) for parameter, copy in zip(model.parameters(), before, strict=True)
               if parameter.requires_grad]  # fmt: skip
    for weight, copy in trained:
        copy.sub_(weight)
    tensors = ([weight for weight, _ in trained], [copy for _, copy in trained])
    return torch.stack([tensor_norms(each, 2.0).square().sum().sqrt() for each in tensors])
