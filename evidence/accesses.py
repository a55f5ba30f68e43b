"""Accesses: a dispatch mode that counts what torch's operations read and write."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Accesses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the elements that operations read and write, the values that the host reads, and collectives.

    gradients: tensors whose elements are counted separately, also where an operation is given a view of them. An
    operation counts each of its tensors once, an expanded one with the elements of its memory.
    """

    def __init__(self, gradients: Sequence[Tensor] = ()):
        super().__init__()  # type: ignore[no-untyped-call]
        self.storages = {id(storage): storage for storage in (each.untyped_storage() for each in gradients)}
        self.elements: Counter[tuple[str, bool]] = Counter()  # by "read" or "write", and whether of the gradients
        self.copies = 0
        self.collectives: list[tuple[str, int]] = []  # the name of each, and how many numbers this process sends

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(hasattr(each, "device_mesh") for each in types):
            return NotImplemented  # calls this again with the local tensors
        kwargs, name = kwargs or {}, function.overloadpacket.__name__
        if name == "_local_scalar_dense":
            self.copies += 1
            if args[0].is_meta:
                return 0  # an accelerator would return a value
        result = function(*args, **kwargs)
        if function.namespace == "c10d":
            sent = args[1] if name == "allgather_" else args[0]
            self.collectives.append((name, sum(tensor.numel() for tensor in tensors_in(sent))))
        elif not function.is_view:
            self.count_operation(name, args, kwargs, result)
        return result

    def count_operation(self, name: str, args: Any, kwargs: dict[str, Any], result: Any) -> None:
        """Counts what an operation reads and writes. An operation in place, whose name ends with "_", does both."""
        out = tensors_in(kwargs.get("out"))
        written = out or tensors_in(args[0] if name.endswith("_") else result)
        if not name.startswith(("empty", "new_empty")):
            self.count("write", written)
        if not name.startswith("new_") and not name.endswith("_like"):  # these read only a shape
            overwritten = {id(each) for each in (written if out or name in ("copy_", "fill_", "zero_") else ())}
            given = tensors_in([*args, *kwargs.values()])
            self.count("read", [each for each in given if id(each) not in overwritten])

    def count(self, access: str, tensors: Sequence[Tensor]) -> None:
        """Counts one operation's access to tensors."""
        for tensor in {id(each): each for each in tensors}.values():
            elements = math.prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
            self.elements[access, id(tensor.untyped_storage()) in self.storages] += elements


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in nested lists and tuples."""
    if isinstance(value, Tensor):
        return [value]
    return [tensor for each in value for tensor in tensors_in(each)] if isinstance(value, list | tuple) else []
