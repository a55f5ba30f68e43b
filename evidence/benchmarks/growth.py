"""The cost of clipping against the number of parameters, and against the number of tensors at fixed bytes."""

import argparse
import statistics

import torch

from evidence.benchmarks.cases import Case, Shape, from_conf, limiting
from evidence.benchmarks.measure import in_turns, machine
from evidence.pages import DOCS, pyplot, table

PICTURE = DOCS / "benchmarks" / "growth.png"
ELEMENTS = (10**5, 10**6, 10**7, 10**8)
TENSORS = (10, 100, 1000, 10_000)
FIXED = 4_000_000  # elements, for the growth by tensors


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--turns", type=int, default=9, help="the number of measurements")
    parser.add_argument("--quick", action="store_true", help="without the largest sizes")


def run(args: argparse.Namespace) -> str:
    torch.set_num_threads(1)
    sizes = ELEMENTS[:-2] if args.quick else ELEMENTS
    counts = TENSORS[:-2] if args.quick else TENSORS
    by_size: dict[int, list[Shape]] = {count: [(count // 20,)] * 20 for count in sizes}
    by_count: dict[int, list[Shape]] = {count: [(FIXED // count,)] * count for count in counts}
    found = [measured(by_size, args.turns), measured(by_count, args.turns)]
    draw(found)
    rows = [
        [name, *(f"{times[name]:.3g}" for growth in found for times in growth.values())] for name in [*policies(), READ]
    ]
    head = ["ms", *(f"{count:.0e} elements" for count in sizes), *(f"{count} tensors" for count in counts)]
    return f"{machine()}\n\n{table(head, rows)}"


READ = "one pass that reads"


def policies() -> list[str]:
    """The names of the policies that limit, and `value`."""
    return sorted({policy.name for policy, _ in limiting()} | {"value"})


def measured(lists: dict[int, list[Shape]], turns: int) -> dict[int, dict[str, float]]:
    """The milliseconds of every policy with its default values, by size."""
    found = {}
    for size, shapes in lists.items():
        case = Case(shapes)
        works = {name: case.ours(from_conf(name)) for name in policies()} | {READ: case.read}
        times = in_turns(works, turns, case.restore)
        found[size] = {name: 1e3 * statistics.median(seconds) for name, seconds in times.items()}
        print(size, flush=True)
    return found


def draw(found: list[dict[int, dict[str, float]]]) -> None:
    """Plots the milliseconds over the number of elements, and over the number of tensors."""
    figure, axes = pyplot().subplots(1, 2, figsize=(10, 4.5), sharey=False)
    titles = ("elements, in 20 tensors", f"tensors, {FIXED / 1e6:g} million elements together")
    for axis, growth, title in zip(axes, found, titles, strict=True):
        for number, name in enumerate([*policies(), READ]):
            style = {"color": "black", "linewidth": 2.5} if name == READ else {"color": f"C{number % 10}"}
            line = "-" if number < 10 or name == READ else "--"
            axis.loglog(list(growth), [times[name] for times in growth.values()], line, label=name, **style)
        axis.set_xlabel(title)
        axis.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("milliseconds a step")
    axes[1].legend(fontsize=7, ncols=2)
    figure.tight_layout()
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=110)
