"""Logging 200 scalars per step: time and bytes, against `add_scalar`."""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from evidence.benchmarks.measure import Work, in_turns, machine, milliseconds, ratio
from evidence.pages import table
from runner.tracking.tracker import Tracker

TAGS = {  # of the metrics of an evaluation, which has its loss as the 200th scalar
    "tags as in a run": [f"layer{number}.weight" for number in range(199)],
    "short tags": [f"{number:03}" for number in range(199)],
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--turns", type=int, default=200, help="the number of steps that are logged each way")


def run(args: argparse.Namespace) -> str:
    rows = [row for what, tags in TAGS.items() for row in compared(what, dict.fromkeys(tags, 0.5), args.turns)]
    head = ["200 scalars a step", "", "ms", "ms until written", "bytes"]
    return f"{machine()}\n\n{table(head, rows)}"


def compared(what: str, scalars: dict[str, float], turns: int) -> list[list[str]]:
    """Measures both ways to log the scalars, and makes the table's rows."""
    with tempfile.TemporaryDirectory() as folder:
        one, other = Path(folder) / "one_event", Path(folder) / "add_scalars"
        tracker, writer = Tracker(one, "", {}), SummaryWriter(str(other))
        start = {path: size(path) for path in (one, other)}
        step = iter(range(10**9))

        def add_scalars() -> None:
            number = next(step)
            writer.add_scalar("loss/val", 0.5, number)
            for tag, value in scalars.items():
                writer.add_scalar(f"metric/{tag}", value, number)

        def one_event() -> None:
            tracker.evaluation(next(step), 0.5, scalars)

        works = {"one_event": one_event, "add_scalars": add_scalars}
        times = in_turns(works, turns)
        ends = {"one_event": tracker.flush, "add_scalars": writer.flush}
        until_written = in_turns({name: both_calls(works[name], ends[name]) for name in works}, turns)
        tracker.close()
        writer.close()
        bytes_a_step = {path: (size(path) - start[path]) / (2 * turns + 2) for path in (one, other)}
    return [
        [
            what,
            "one event a step",
            milliseconds(times, "one_event"),
            milliseconds(until_written, "one_event"),
            f"{bytes_a_step[one]:,.0f}",
        ],
        [
            what,
            "`add_scalar`",
            milliseconds(times, "add_scalars"),
            milliseconds(until_written, "add_scalars"),
            f"{bytes_a_step[other]:,.0f}",
        ],
        [
            what,
            "ratio",
            str(ratio(times, "one_event", "add_scalars")),
            str(ratio(until_written, "one_event", "add_scalars")),
            f"{bytes_a_step[one] / bytes_a_step[other]:.2f}",
        ],
    ]


def both_calls(work: Work, end: Callable[[], object]) -> Work:
    def both() -> None:
        work()
        end()

    return both


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("events.*"))
