"""Operations on lists of tensors in one call: `torch._foreach_*`, which has no public equivalent.

Only this module uses these functions. torch's documentation does not list them, but torch's own optimizers and
`clip_grad_norm_` consist of them.
"""

import torch
from torch import Tensor

Tensors = list[Tensor] | tuple[Tensor, ...]


def norms(tensors: Tensors, p: float, dtype: torch.dtype) -> Tensors:
    """The p-norm of each tensor, 0-d on the tensor's device, with powers accumulated in `dtype`. p: 1, 2 or inf."""
    return torch._foreach_norm(tensors, p, dtype=dtype)


def multiply(tensors: Tensors, factors: Tensor | Tensors) -> None:
    """Multiplies tensors in place: all by one 0-d factor, or each by its own, which is broadcast to its shape."""
    torch._foreach_mul_(tensors, factors)


def copy(targets: Tensors, sources: Tensors) -> None:
    """Copies each source into the target at the same index, in place."""
    torch._foreach_copy_(targets, sources)
