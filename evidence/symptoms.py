"""Trains small problems, one per symptom, under several policies: `python evidence/symptoms.py` writes their tables.

The tables are those of evidence/docs/symptoms.md and of gradclip's README. Three to five seeds in float64 on one
thread; under two minutes. Every problem is synthetic and its symptom is built in, so that a table shows what a policy
does about the symptom, and not how often the symptom occurs.
"""

import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from evidence import pages
from evidence.symptom_tasks import (
    Task,
    corrupt,
    drift,
    elements,
    explosions,
    layers,
    nonfinite,
    plateau,
    sizes,
    spikes,
    unnormalized,
    vanishing,
)
from gradclip import (
    AGC,
    AdaGC,
    AutoClip,
    ClipByNorm,
    ClipByValue,
    Clipper,
    DropStep,
    EMAClip,
    NoClip,
    NonFiniteGradientError,
    Normalize,
    Policy,
    QuantileClip,
    SpikeClip,
    ZClip,
)

PAGE = pages.DOCS / "symptoms.md"
README = Path(__file__).parents[1] / "src" / "gradclip" / "README.md"
SEEDS = (1, 2, 3)
MORE_SEEDS = (1, 2, 3, 4, 5)
FAILED = 10.0  # a run has failed if it ends with more than this multiple of the loss before training


class Try(NamedTuple):
    """A way to train. change: what differs beside the policy, in words; empty if nothing.

    lr: the multiple of the symptom's learning rate. adam: whether Adam replaces the symptom's optimizer. make: a task
    instead of the symptom's.
    """

    policy: Policy
    change: str = ""
    lr: float = 1.0
    adam: bool = False
    make: Callable[[], Task] | None = None

    def label(self) -> str:
        """The constructor call, and what else is changed."""
        return f"`{call(self.policy)}`" + (f", {self.change}" if self.change else "")


class End(NamedTuple):
    """The end of a run. loss: on the test, inf if the run failed. limited, dropped: shares of the steps."""

    loss: float
    limited: float
    dropped: float


@dataclass(frozen=True)
class Symptom:
    """A symptom, and the ways to train that are compared.

    seen: how a user recognizes it. lr: of plain SGD, or of Adam. first: the recommended way. others: ways that are
    measured beside it and beside no clipping; the README shows the first of them.
    """

    seen: str
    make: Callable[[], Task]
    steps: int
    lr: float
    first: Try
    others: tuple[Try, ...]
    adam: bool = False
    seeds: tuple[int, ...] = SEEDS

    def tries(self) -> tuple[Try, ...]:
        return Try(NoClip()), self.first, *self.others


SYMPTOMS = {
    "explosions": Symptom(
        "The loss jumps or becomes nan; just before, `report.before` was a thousand times its median",
        explosions, 500, 0.1,
        Try(ClipByNorm(max=0.3, schedule="linear", final=0.001, over=500)),
        (Try(NoClip(), "lr 100 times smaller", lr=0.01), Try(NoClip(), "lr 10 times smaller", lr=0.1),
         Try(ClipByNorm(max=0.1)), Try(ClipByNorm(max=1.0)), Try(ClipByValue(max=0.1)), Try(ZClip(max=None)),
         Try(AutoClip())),
        seeds=MORE_SEEDS,
    ),
    "drift": Symptom(
        "No threshold is known, and the norm falls by orders of magnitude: "
        "the quantiles in `clipper.summary()` are powers of ten apart",
        drift, 600, 0.05,
        Try(AutoClip()),
        (Try(ClipByNorm(max=1e4)), Try(ClipByNorm(max=1.0)), Try(ZClip(max=None)), Try(QuantileClip()),
         Try(EMAClip(scope="model"))),
    ),
    "spikes": Symptom(
        "A quiet run with rare spikes, after which Adam hardly moves: "
        "in `clipper.summary()` `largest` is far above `99 %`",
        spikes, 1000, 0.02,
        Try(ZClip(max=None)),
        (Try(ClipByNorm(max=10.0)), Try(ClipByNorm(max=1.0)), Try(AutoClip()), Try(EMAClip(scope="model"))),
        adam=True,
    ),
    "elements": Symptom(
        "Single elements explode at almost every step: the largest element of `p.grad` is most of its norm",
        elements, 1000, 0.02,
        Try(ClipByValue(max=1.0)),
        (Try(ClipByNorm(max=10.0)), Try(ClipByNorm(max=3.0)), Try(ClipByNorm(max=30.0)), Try(SpikeClip())),
    ),
    "sizes": Symptom(
        "Single elements spike, and the usual sizes of the elements differ by orders of magnitude",
        sizes, 1000, 0.01,
        Try(SpikeClip(theta=25.0)),
        (Try(ClipByValue(max=0.1)), Try(ClipByValue(max=1.0)), Try(ClipByValue(max=0.001)), Try(ClipByNorm(max=1.0)),
         Try(SpikeClip())),
        adam=True,
    ),
    "layers": Symptom(
        "One parameter's norm in `report.by_parameter()` is far above the others', and those hardly learn",
        layers, 800, 0.03,
        Try(ClipByNorm(max=0.3, scope="parameter")),
        (Try(ClipByNorm(max=10.0)), Try(ClipByNorm(max=0.3)), Try(ClipByNorm(max=100.0)), Try(ClipByValue(max=0.1)),
         Try(AdaGC()), Try(EMAClip())),
    ),
    "unnormalized": Symptom(
        "No normalization layers, a large learning rate, and layers whose weights differ in size",
        unnormalized, 400, 1.0,
        Try(AGC(ratio=0.01)),
        (Try(ClipByNorm(max=1.0)), Try(ClipByNorm(max=0.1)), Try(ClipByNorm(max=0.03)),
         Try(NoClip(), "lr 100 times smaller", lr=0.01), Try(AGC(ratio=0.01, exclude=["8.weight", "8.bias"]))),
    ),
    "corrupt": Symptom(
        "Some batches are corrupt: their norm is far above the rest, and their gradient points elsewhere",
        corrupt, 600, 0.03,
        Try(DropStep(max=5.0)),
        (Try(ClipByNorm(max=1.0)), Try(ClipByNorm(max=0.3)), Try(ZClip(max=None)), Try(AutoClip()),
         Try(DropStep(max=1.0))),
    ),
    "nonfinite": Symptom(
        "`NonFiniteGradientError` at single batches, or float16 with a GradScaler",
        nonfinite, 400, 0.05,
        Try(ClipByNorm(max=1.0, nonfinite="drop")),
        (Try(ClipByNorm(max=1.0, nonfinite="keep")), Try(ClipByNorm(max=1.0)),
         Try(ClipByNorm(max=1.0, nonfinite="zero"))),
    ),
    "plateau": Symptom(
        "The loss hardly moves and `report.before` is tiny, yet the plateau ends in cliffs; only direction matters",
        plateau, 1000, 0.03,
        Try(Normalize(max=1.0, schedule="linear", final=0.001, over=1000)),
        (Try(ClipByNorm(max=1.0), "lr 1000 times larger", lr=1000.0), Try(ClipByNorm(max=1.0)), Try(Normalize(max=1.0)),
         Try(NoClip(), "Adam", adam=True)),
    ),
    "vanishing": Symptom(
        "`report.by_parameter()`: the first layers' norms are tiny, and nothing is learnt",
        vanishing, 300, 0.1,
        Try(ClipByNorm(max=1.0), "weights initialized with gain 1", make=partial(vanishing, gain=1.0)),
        (Try(ClipByNorm(max=1.0)),
         Try(NoClip(), "weights initialized with gain 1", make=partial(vanishing, gain=1.0)), Try(AGC()),
         Try(AutoClip()), Try(Normalize(max=0.1)), Try(NoClip(), "Adam", adam=True),
         Try(Normalize(max=0.1), "20 layers", make=partial(vanishing, depth=20))),
    ),
}  # fmt: skip


# -- running and formatting


def main(arguments: list[str] | None = None) -> None:
    parser = pages.parser(__doc__, PAGE)
    parser.add_argument("--readme", type=Path, default=README, help="the page whose table of symptoms is replaced")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sections, rows = {}, []
    for name, symptom in SYMPTOMS.items():
        found = {each.label(): [train(symptom, each, seed) for seed in symptom.seeds] for each in symptom.tries()}
        sections[name] = table(symptom, found)
        rows.append(row(name, symptom, found))
    pages.write(args.page, sections)
    header = ["symptom", "policy", "loss at the end", "measured"]
    pages.write(args.readme, {"symptoms": pages.table(header, rows)})


def train(symptom: Symptom, way: Try, seed: int) -> End:
    """Trains one run; a gradient that is not finite ends it, unless the policy's `nonfinite` says otherwise."""
    torch.manual_seed(seed)
    task = (way.make or symptom.make)()
    optimizer_class = torch.optim.Adam if symptom.adam or way.adam else torch.optim.SGD
    optimizer = optimizer_class(task.model.parameters(), lr=way.lr * symptom.lr)
    clipper = Clipper(task.model, way.policy)
    with torch.no_grad():
        start = task.test().item()
    finite = True
    try:
        for step in range(symptom.steps):
            optimizer.zero_grad()
            task.loss(step).backward()  # type: ignore[no-untyped-call]
            if not clipper.clip().dropped:
                optimizer.step()
    except NonFiniteGradientError:
        finite = False
    with torch.no_grad():
        end = task.test().item() if finite else math.inf
    done = clipper.summary()
    return End(end if end <= FAILED * start else math.inf, done.limited, done.dropped / max(done.steps, 1))


def call(policy: Policy) -> str:
    """The constructor call of a policy, without the fields that have their default."""
    given = []
    for field in fields(policy):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if (value := getattr(policy, field.name)) != default:
            given.append(f"{field.name}={value!r}".replace("'", '"'))
    return f"{type(policy).__name__}({', '.join(given)})"


def table(symptom: Symptom, found: Mapping[str, Sequence[End]]) -> str:
    """The table of a symptom on the page; the recommended way is in bold."""
    rows = []
    for label, ends in found.items():
        losses = sorted(end.loss for end in ends)
        spread = "" if shown(losses[0]) == shown(losses[-1]) else f" ({shown(losses[0])} to {shown(losses[-1])})"
        name = f"**{label}**" if label == symptom.first.label() else label
        shares = [f"{100 * statistics.median(share):.0f} %" for share in list(zip(*ends, strict=True))[1:]]
        rows.append([name, median(ends) + spread, *shares])
    return pages.table(["policy", "loss at the end", "limited steps", "dropped steps"], rows)


def row(name: str, symptom: Symptom, found: Mapping[str, Sequence[End]]) -> list[str]:
    """The row of a symptom in the README."""
    none, first, other, *_ = symptom.tries()
    ends = found[other.label()]
    lost = sum(end.loss == math.inf for end in ends)
    some = f", {lost} of {len(ends)} failed" if 0 < lost <= len(ends) // 2 else ""
    losses = f"{median(found[first.label()])}; unclipped {median(found[none.label()])}; "
    link = f"[{name}](../../evidence/docs/symptoms.md#{name})"
    return [symptom.seen, first.label(), f"{losses}{other.label()} {median(ends)}{some}", link]


def median(ends: Sequence[End]) -> str:
    return shown(statistics.median(end.loss for end in ends))


def shown(loss: float) -> str:
    """Two significant digits, or `failed`."""
    return f"{loss:.2g}" if loss < math.inf else "failed"


if __name__ == "__main__":
    main()
