"""Clipping with both norms, against torch's clipping alone and against the necessary passes over the gradients."""

import argparse

import torch

from evidence.benchmarks.cases import Case, gradient_shapes
from evidence.benchmarks.measure import Times, Work, in_turns, machine, milliseconds, ratio
from evidence.pages import table
from gradclip import ClipByNorm, ClipByValue

OTHERS = ("torch", "by hand", "floor")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--large", action="store_true", help="also a GPT of 85 million parameters")
    parser.add_argument("--turns", type=int, default=60, help="the number of measurements")


def run(args: argparse.Namespace) -> str:
    rows = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for name, shapes in gradient_shapes(args.large).items():
            case = Case(shapes)
            for what, limit in (("scales", 0.999 * case.norm()), ("nothing exceeds", 1e3 * case.norm())):
                times = norm_times(case, limit, args.turns)
                rows.append([name, str(threads), what, *(str(ratio(times, "ours", other)) for other in OTHERS),
                             *(milliseconds(times, work) for work in ("ours", *OTHERS)),
                             f"{case.error(ClipByNorm(max=limit)):.0e}"])  # fmt: skip
            for what, limit in (("value, clamps", 0.02), ("value, nothing exceeds", 1.0)):
                value = in_turns(
                    {"ours": case.ours(ClipByValue(max=limit)), "by hand": case.by_hand_value(limit)},
                    args.turns,
                    case.restore,
                )
                rows.append([name, str(threads), what, "", str(ratio(value, "ours", "by hand")), "",
                             milliseconds(value, "ours"), "", milliseconds(value, "by hand"), "",
                             f"{case.error(ClipByValue(max=limit)):.0e}"])  # fmt: skip
            print(name, threads, flush=True)
    head = ["gradients", "threads", "", "ours / torch alone", "ours / by hand", "ours / floor"]
    head += ["ours, ms", "torch alone, ms", "by hand, ms", "floor, ms", "error of norms"]
    return f"{machine()}\n\n{table(head, rows)}"


def norm_times(case: Case, limit: float, turns: int) -> Times:
    works: dict[str, Work] = {
        "ours": case.ours(ClipByNorm(max=limit)),
        "torch": case.torch_alone(limit),
        "by hand": case.by_hand(limit),
        "floor": case.read_and_scale if limit < case.norm() else case.read,
    }
    return in_turns(works, turns, case.restore)
