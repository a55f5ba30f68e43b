"""Clipping with both norms, against others' clipping alone and against the passes that it cannot do without."""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from evidence.benchmarks.measure import Times, Work, in_turns, machine, milliseconds, ratio, table, write
from gradclip import ClipByNorm, ClipByValue, Clipper, Policy, norms
from runner.cli.preflight import CONF
from runner.compose import Composer, checked
from trainer.config import GROUPS

Shape = tuple[int, ...]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--large", action="store_true", help="also a GPT of 85 million parameters")
    parser.add_argument("--turns", type=int, default=60, help="how often everything is measured")
    parser.add_argument("--policies", action="store_true", help="every policy against its floor instead")


def lists(large: bool) -> dict[str, list[Shape]]:
    """The gradients' shapes."""
    found: dict[str, list[Shape]] = {
        "200 of 32x32": [(32, 32)] * 200,
        "LSTM 5 M": [(1000, 650), *lstm(650, 650), (1000, 650), (1000,)],
        "GPT 10 M": gpt(width=320, layers=8, words=256, places=128),
        "ResNet-18": resnet18(),
    }
    return found | ({"GPT 85 M": gpt(width=768, layers=12, words=256, places=256)} if large else {})


def lstm(inputs: int, hidden: int) -> list[Shape]:
    return [(4 * hidden, inputs), (4 * hidden, hidden), (4 * hidden,), (4 * hidden,)]


def gpt(width: int, layers: int, words: int, places: int) -> list[Shape]:
    norm: list[Shape] = [(width,), (width,)]
    attention: list[Shape] = [(3 * width, width), (3 * width,), (width, width), (width,)]
    perceptron: list[Shape] = [(4 * width, width), (4 * width,), (width, 4 * width), (width,)]
    return [(words, width), (places, width), *[*norm, *attention, *norm, *perceptron] * layers, *norm]


def resnet18() -> list[Shape]:
    shapes: list[Shape] = [(64, 3, 7, 7), (64,), (64,)]
    inputs = 64
    for width in (64, 128, 256, 512):
        for _ in range(2):
            shapes += [(width, inputs, 3, 3), (width,), (width,), (width, width, 3, 3), (width,), (width,)]
            if inputs != width:
                shapes += [(width, inputs, 1, 1), (width,), (width,)]
            inputs = width
    return [*shapes, (1000, 512), (1000,)]


class Case:
    """Parameters with gradients that are put back before every measurement."""

    def __init__(self, shapes: list[Shape]):
        random = torch.Generator().manual_seed(1)
        self.parameters = [nn.Parameter(0.02 * torch.randn(shape, generator=random)) for shape in shapes]
        self._kept = [0.01 * torch.randn(shape, generator=random) for shape in shapes]
        for parameter in self.parameters:
            parameter.grad = torch.empty_like(parameter)
        self.named = [(f"layer{number}.weight", parameter) for number, parameter in enumerate(self.parameters)]
        self.optimizer = torch.optim.SGD(self.parameters, lr=0.1)
        self.put_back()

    @property
    def gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]

    def put_back(self) -> None:
        for gradient, kept in zip(self.gradients, self._kept, strict=True):
            gradient.copy_(kept)

    def norm(self) -> float:
        return torch.nn.utils.get_total_norm([gradient.double() for gradient in self.gradients]).item()

    def error(self, policy: Policy) -> float:
        """The largest relative error of all norms of a report, before and after, against float64."""
        self.put_back()
        report = Clipper(self.named, policy, optimizer=self.optimizer).clip()
        exact = [exact_norms(self._kept), exact_norms(self.gradients)]
        told = [report.parameter_before, report.parameter_after]
        pairs = [(report.before, exact[0].norm()), (report.after, exact[1].norm()), *zip(told, exact, strict=True)]
        return max(float(((one - other).abs() / other).max()) for one, other in pairs)

    def ours(self, policy: Policy, optimizer: torch.optim.Optimizer | None = None) -> Work:
        """`clip()` with before, after and every parameter's norms read."""
        clipper = Clipper(self.named, policy, optimizer=optimizer or self.optimizer)

        def work() -> None:
            report = clipper.clip()
            report.before.item()
            report.after.item()
            report.by_parameter()

        return work

    def torchs(self, limit: float) -> Work:
        return lambda: torch.nn.utils.clip_grad_norm_(self.parameters, limit)

    def todays(self, limit: float) -> Work:
        """What people write who want to see both."""

        def work() -> None:
            before = [gradient.norm().item() for gradient in self.gradients]
            torch.nn.utils.clip_grad_norm_(self.parameters, limit)
            after = [gradient.norm().item() for gradient in self.gradients]
            assert len(before) == len(after)

        return work

    def read(self) -> Tensor:
        """One pass, by torch's fastest kernel for it, right or not."""
        return torch.stack(torch._foreach_norm(self.gradients, 2))

    def scale(self) -> None:
        torch._foreach_mul_(self.gradients, torch.tensor(0.5))

    def read_and_scale(self) -> None:
        self.read()
        self.scale()

    def todays_value(self, limit: float) -> Work:
        def work() -> None:
            torch.nn.utils.get_total_norm(self.gradients).item()
            torch.nn.utils.clip_grad_value_(self.parameters, limit)
            torch.nn.utils.get_total_norm(self.gradients).item()

        return work


def exact_norms(tensors: list[Tensor]) -> Tensor:
    """[tensors] float64"""
    return torch.stack([tensor.double().square().sum().sqrt() for tensor in tensors])


def run(args: argparse.Namespace) -> None:
    if args.policies:
        policies(args)
        return
    rows = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for name, shapes in lists(args.large).items():
            case = Case(shapes)
            for what, limit in (("scales", 0.999 * case.norm()), ("nothing exceeds", 1e3 * case.norm())):
                times = norm_times(case, limit, args.turns)
                rows.append([name, str(threads), what, *(str(ratio(times, "ours", other)) for other in OTHERS),
                             str(ratio(times, "long", "torch")),
                             *(milliseconds(times, work) for work in ("ours", *OTHERS)),
                             f"{case.error(ClipByNorm(max=limit)):.0e}"])  # fmt: skip
            for what, limit in (("value, clamps", 0.02), ("value, nothing exceeds", 1.0)):
                value = in_turns(
                    {"ours": case.ours(ClipByValue(max=limit)), "today": case.todays_value(limit)},
                    args.turns,
                    case.put_back,
                )
                rows.append([name, str(threads), what, "", str(ratio(value, "ours", "today")), "", "",
                             milliseconds(value, "ours"), "", milliseconds(value, "today"), "",
                             f"{case.error(ClipByValue(max=limit)):.0e}"])  # fmt: skip
            print(name, threads, flush=True)
    head = ["gradients", "threads", "", "ours / torch alone", "ours / today's", "ours / floor"]
    head += ["long pieces / torch alone"]
    head += ["ours, ms", "torch alone, ms", "today's, ms", "floor, ms", "norms off by"]
    write("clip", f"{ABOUT}\n\n{machine()}\n\n{table(head, rows)}")


OTHERS = ("torch", "today", "floor")
LONG = 4096
ABOUT = """`python evidence/benchmark.py clip`

*Ours* is `clip()` with the norm before, the norm after and every parameter's two norms read. *torch alone* is
`clip_grad_norm_`: one norm. *Today's* is what people write who want to see both: that and every parameter's
`.norm().item()` before and after; for `value`: the norm, `clip_grad_value_`, the norm. The *floor* is one pass that
reads (and, where it scales, one that scales), each by torch's fastest kernel, whatever the accuracy of its sum.
*Long pieces*: ours, with norms in pieces of 4,096 elements instead of 256, as fast as torch's and no longer right to
1e-6 for equal elements (section *rows*). *Norms off by*: the largest relative error of all of our norms, before and
after, against float64.

What is left between ours and the floor is, for few large tensors, that accuracy; for many small ones Python; and for
`value` that torch has no operation that counts what exceeds while it clamps: six passes in the cache stand in the
place of one. A compiled kernel that squares, adds up in two levels, counts and scales in one visit would take the
time of the floor."""


def norm_times(case: Case, limit: float, turns: int) -> Times:
    works: dict[str, Work] = {
        "ours": case.ours(ClipByNorm(max=limit)),
        "torch": case.torchs(limit),
        "today": case.todays(limit),
        "floor": case.read_and_scale if limit < 1 or limit < case.norm() else case.read,
        "long": in_long_pieces(case, ClipByNorm(max=limit)),
    }
    return in_turns(works, turns, case.put_back)


def in_long_pieces(case: Case, policy: Policy) -> Work:
    """Ours with norms in pieces of LONG elements: what accuracy costs. The first call settles the pieces."""
    with patch.object(norms, "ROW", LONG):
        norms._piece.cache_clear()
        work = case.ours(policy)
        work()
    norms._piece.cache_clear()
    return work


# -- every policy against the passes that its formula needs


def policies(args: argparse.Namespace) -> None:
    rows = []
    torch.set_num_threads(1)
    for name, shapes in lists(large=False).items():
        case = Case(shapes)
        for policy, what in limiting():
            floor = case.read_and_scale if what == "scales" else case.read
            works = {"ours": case.ours(policy), "floor": with_weights(case, floor) if policy.name == "agc" else floor}
            times = in_turns(works, args.turns, case.put_back)
            rows.append([name, policy.name, policy.scope, what, str(ratio(times, "ours", "floor")),
                         milliseconds(times, "ours"), milliseconds(times, "floor")])  # fmt: skip
        print(name, flush=True)
    head = ["gradients", "policy", "scope", "", "ours / floor", "ours, ms", "floor, ms"]
    write("policies", f"{POLICIES}\n\n{machine()}\n\n{table(head, rows)}")


POLICIES = """`python evidence/benchmark.py clip --policies`, on one thread

The floor is the passes that a policy's formula needs: one that reads the gradients, one that scales them where
something exceeds its limit, and for `agc` one that reads the weights. Beyond what section *clip* says of `norm`, a
policy pays for a dozen operations on a handful of numbers, and `autoclip` by parameter for the percentile of the last
1,000 norms of each: more numbers than such small gradients have."""


def with_weights(case: Case, floor: Work) -> Work:
    def work() -> None:
        torch._foreach_norm([parameter.detach() for parameter in case.parameters], 2)
        floor()

    return work


QUIET: dict[str, dict[str, Any]] = {
    "autoclip": {"percentile": 100.0},
    "agc": {"ratio": 1e9},
    "quantile": {"initial": 1e9},
    "adagc": {"warmup_max": 1e9},
    "zclip": {"threshold": 1e9},
}


def limiting() -> Iterator[tuple[Policy, str]]:
    """Every policy that limits or rescales, at the scopes model and parameter: where it scales, and where not."""
    for name in sorted(GROUPS["clip"].options):
        made = from_conf(name)
        for scope in ("model", "parameter"):
            if made.kind in ("limit", "rescale") and scope in made.scopes:
                yield replace(made, scope=scope, max=1e-3), "scales"
                if made.kind == "limit":
                    limit = None if made.caps else 1e9
                    yield replace(made, scope=scope, max=limit, **QUIET.get(name, {})), "nothing exceeds"


@cache
def from_conf(name: str) -> Policy:
    composer = Composer(CONF)
    return checked(composer.compose(composer.quoted([f"clip={name}"]))).clip
