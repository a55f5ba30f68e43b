"""The length of the chunks whose squares are summed in float32: its cost, and its effect on the norm."""

import argparse
import math
from collections.abc import Callable

import torch
from torch import Tensor

from evidence.benchmarks.measure import Work, in_turns, machine, milliseconds, ratio
from evidence.pages import table

ELEMENTS = 1 << 22
LENGTHS = (128, 256, 512, 1024, 4096, 32768)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--turns", type=int, default=60, help="the number of measurements")


def run(args: argparse.Namespace) -> str:
    torch.set_num_threads(1)
    tensor = torch.randn(ELEMENTS, generator=torch.Generator().manual_seed(0))
    works: dict[str, Work] = {"whole": lambda: torch.linalg.vector_norm(tensor)}
    works |= {str(length): chunks(tensor, length) for length in LENGTHS}
    other = torch.empty(4 * ELEMENTS)

    def make_cold() -> None:
        other.zero_()

    times = in_turns(works, args.turns, make_cold)
    rows = []
    for name in works:
        found = [f"{error(data, ELEMENTS if name == 'whole' else int(name)):.1e}" for data in (random, equal, spiked)]
        rows.append([name, milliseconds(times, name), str(ratio(times, name, "whole")), *found])
    head = ["length", "ms", "against whole", "random", "equal elements", "one element 4096 times the others"]
    return f"{machine()}\n\n{table(head, rows)}"


def chunks(tensor: Tensor, length: int) -> Work:
    rows, out = tensor.view(-1, length), torch.empty(tensor.numel() // length)
    return lambda: torch.linalg.vector_norm(rows, 2, 1, out=out)


def error(data: Callable[[int, int], Tensor], length: int) -> float:
    return max(_relative_error(data(length, number), length) for number in range(8))


def _relative_error(tensor: Tensor, length: int) -> float:
    exact = tensor.double().square().sum().sqrt()
    norms = torch.linalg.vector_norm(tensor.view(-1, length), 2, 1)
    return abs(float(norms.double().square().sum().sqrt() / exact) - 1)


def random(length: int, number: int) -> Tensor:
    return torch.randn(ELEMENTS, generator=torch.Generator().manual_seed(number))


def equal(length: int, number: int) -> Tensor:
    return torch.full((ELEMENTS,), 2 ** (number / 8))


def spiked(length: int, number: int) -> Tensor:
    tensor = torch.full((ELEMENTS,), math.sqrt(1 - number / 16) / 4096)
    tensor[::length] = 1.0
    return tensor
