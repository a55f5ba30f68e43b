"""How far a step moves the weights."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gradclip.norms import tensor_norms

PIECE = 1 << 17  # elements: they and their copy stay in a core's cache, and their float32 squares add up well


class Change:
    """Measures how far a step moves a model's weights, against a copy, whose memory it keeps from step to step.

    every: every step is measured, so that the next one's copy is made while the weights are in the cache.
    """

    def __init__(self, model: nn.Module, *, every: bool = False):
        self._weights = [parameter.detach() for parameter in model.parameters()]
        self._every, self._copied = every, False
        self._pairs: list[tuple[list[Tensor], list[Tensor]]] = []  # weights and their copies, piece by piece
        self._short = all(w.dtype == torch.float32 and w.is_cpu and w.is_contiguous() for w in self._weights)

    def before(self) -> None:
        """To be called before the step."""
        if not self._pairs:
            copies = [torch.empty_like(weight) for weight in self._weights]
            self._pairs = list(_in_pieces(self._weights, copies)) if self._short else [(self._weights, copies)]
        if not self._copied:
            for weights, copies in self._pairs:
                torch._foreach_copy_(copies, weights)

    def after(self) -> Tensor:
        """To be called after the step: the 2-norms of all weights and of the change of all, [2], right to 1e-4
        for elements between 1e-18 and 1e18: these are shown, and nothing is clipped by them."""
        size: Tensor | float = 0.0
        change: Tensor | float = 0.0
        for weights, copies in self._pairs:
            torch._foreach_sub_(copies, weights)
            size, change = size + self._square(weights), change + self._square(copies)
            if self._every:
                torch._foreach_copy_(copies, weights)
        self._copied = self._every
        if isinstance(size, Tensor) and isinstance(change, Tensor):
            return torch.stack([size, change]).sqrt()
        return torch.tensor([size, change], dtype=torch.float64).sqrt()

    def _square(self, tensors: list[Tensor]) -> Tensor | float:
        """That of the norm of all; on the CPU, where looking costs nothing, a plain number: a torch operation less."""
        if self._short:
            return sum(torch.dot(tensor, tensor).item() for tensor in tensors)  # a dot takes half of a norm's time
        return tensor_norms(tensors, 2.0).square().sum()


def _in_pieces(weights: list[Tensor], copies: list[Tensor]) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Views in one dimension, together of about PIECE elements."""
    some: tuple[list[Tensor], list[Tensor]] = [], []
    room = PIECE
    for weight, copy in zip(weights, copies, strict=True):
        for one, other in zip(torch.split(weight.view(-1), PIECE), torch.split(copy.view(-1), PIECE), strict=True):
            if some[0] and one.numel() > room:
                yield some
                some, room = ([], []), PIECE
            some[0].append(one)
            some[1].append(other)
            room -= one.numel()
    yield some
