"""Logging 200 scalars a step: time and bytes, against `add_scalar`."""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from evidence.benchmarks.measure import Work, in_turns, machine, milliseconds, ratio, table, write
from runner.tracking.tracker import Tracker

TAGS = {
    "tags as in a run": [f"grad_norm_before/layer{number}.weight" for number in range(200)],
    "tags of four characters": [f"{number:04}" for number in range(200)],
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--turns", type=int, default=200, help="how many steps are logged in either way")


def run(args: argparse.Namespace) -> None:
    rows = [row for what, tags in TAGS.items() for row in compared(what, dict.fromkeys(tags, 0.5), args.turns)]
    about = (
        "`python evidence/benchmark.py log`: an event costs 38 bytes beside its tags and values, and a tag as many as\n"
        "it has characters, in either way. TensorBoard adds up a checksum of every byte in a thread of its own, in\n"
        "Python; *until written* waits for it."
    )
    head = ["200 scalars a step", "", "ms", "ms until written", "bytes"]
    write("log", f"{about}\n\n{machine()}\n\n{table(head, rows)}")


def compared(what: str, scalars: dict[str, float], turns: int) -> list[list[str]]:
    """The rows for these scalars."""
    with tempfile.TemporaryDirectory() as folder:
        one, other = Path(folder) / "ours", Path(folder) / "theirs"
        tracker, writer = Tracker(one, "", {}), SummaryWriter(str(other))
        start = {path: size(path) for path in (one, other)}
        step = iter(range(10**9))

        def theirs() -> None:
            number = next(step)
            for tag, value in scalars.items():
                writer.add_scalar(tag, value, number)

        def ours() -> None:
            tracker._write(next(step), tuple(scalars), list(scalars.values()))

        works = {"ours": ours, "theirs": theirs}
        times = in_turns(works, turns)
        ends = {"ours": tracker.flush, "theirs": writer.flush}
        whole = in_turns({name: together(works[name], ends[name]) for name in works}, turns)
        tracker.close()
        writer.close()
        bytes_a_step = {path: (size(path) - start[path]) / (2 * turns + 2) for path in (one, other)}
    return [
        [
            what,
            "one event a step",
            milliseconds(times, "ours"),
            milliseconds(whole, "ours"),
            f"{bytes_a_step[one]:,.0f}",
        ],
        [
            what,
            "`add_scalar`",
            milliseconds(times, "theirs"),
            milliseconds(whole, "theirs"),
            f"{bytes_a_step[other]:,.0f}",
        ],
        [
            what,
            "ratio",
            str(ratio(times, "ours", "theirs")),
            str(ratio(whole, "ours", "theirs")),
            f"{bytes_a_step[one] / bytes_a_step[other]:.2f}",
        ],
    ]


def together(work: Work, end: Callable[[], object]) -> Work:
    def both() -> None:
        work()
        end()

    return both


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("events.*"))
