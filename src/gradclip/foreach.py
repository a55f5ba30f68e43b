"""Operations on lists of tensors in one call: `torch._foreach_*`, which has no public equivalent.

Only this module uses these functions. torch's documentation does not list them, but torch's own optimizers and
`clip_grad_norm_` call them.
"""

import torch
from torch import Tensor

Tensors = list[Tensor] | tuple[Tensor, ...]


def norms(tensors: Tensors, p: float, dtype: torch.dtype) -> Tensors:
    """The p-norm of each tensor, 0-d on the tensor's device, with powers accumulated in `dtype`. p: 1, 2 or inf."""
    return torch._foreach_norm(tensors, p, dtype=dtype)


def multiply(tensors: Tensors, factors: Tensor | Tensors) -> None:
    """Multiplies tensors of one device and type, in place: all by a 0-d factor, or each by its own, broadcast to it.

    On an accelerator a 0-d factor would be rounded to the tensor's half precision, with an error of up to 0.4 %; a
    factor of at least one dimension takes part in type promotion.
    """
    if tensors[0].dtype.itemsize < 4 and tensors[0].device.type != "cpu":
        listed = [factors] * len(tensors) if isinstance(factors, Tensor) else factors
        factors = [factor if factor.dim() else factor.view(1) for factor in listed]
        tensors = [tensor if tensor.dim() else tensor.view(1) for tensor in tensors]
    torch._foreach_mul_(tensors, factors)
