"""Every policy against the passes over the gradients that its formula needs."""

import argparse

import torch

from evidence.benchmarks.cases import Case, gradient_shapes, limiting
from evidence.benchmarks.measure import Work, in_turns, machine, milliseconds, ratio
from evidence.pages import table
from tests.support import scope_of


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--turns", type=int, default=60, help="the number of measurements")


def run(args: argparse.Namespace) -> str:
    rows = []
    torch.set_num_threads(1)
    for name, shapes in gradient_shapes(large=False).items():
        case = Case(shapes)
        for policy, what in limiting():
            floor = case.read_and_scale if what == "scales" else case.read
            works = {"ours": case.ours(policy), "floor": with_weights(case, floor) if policy.name == "agc" else floor}
            times = in_turns(works, args.turns, case.restore)
            rows.append([name, policy.name, scope_of(policy), what, str(ratio(times, "ours", "floor")),
                         milliseconds(times, "ours"), milliseconds(times, "floor")])  # fmt: skip
        print(name, flush=True)
    head = ["gradients", "policy", "scope", "", "ours / floor", "ours, ms", "floor, ms"]
    return f"{machine()}\n\n{table(head, rows)}"


def with_weights(case: Case, floor: Work) -> Work:
    def work() -> None:
        torch._foreach_norm([parameter.detach() for parameter in case.parameters], 2)
        floor()

    return work
