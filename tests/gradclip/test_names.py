"""Parameters keep their names inside wrappers, from the construction of a Clipper on."""

import torch
from torch import nn

from gradclip import ClipByNorm, Clipper


class WithParallelPart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = nn.DataParallel(nn.Linear(2, 1))
        self.rest = nn.Linear(1, 1)


def test_patterns_match_names_below_a_parallel_module_at_construction() -> None:
    model = WithParallelPart()
    clipper = Clipper(model, ClipByNorm(max=1.0, include=["part.weight", "rest.*"]))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert clipper.clip().names == ("part.weight", "part.bias", "rest.weight", "rest.bias")
