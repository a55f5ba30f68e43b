"""Counts the warnings of healthy runs, and provokes each kind: `python evidence/warnings_study.py` writes its page.

The healthy runs are the experiments of conf/experiment, regressions whose losses get small, and runs with other
settings, at three seeds each. Ten minutes on one core.
"""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).parents[1]))

import trainer
from evidence import pages
from evidence.common import in_processes
from runner.runs.log import LOG_FILE
from runner.tracking import metrics
from runner.tracking.tags import LR, UPDATE_RATIO

PAGE = pages.DOCS / "warnings.md"
SEEDS = (0, 1, 2)
QUIET = ("log.progress=false", "log.gradient_norms=false", "device.threads=1", "post_mortem.replay_steps=0",
         "post_mortem.try_steps=0")  # fmt: skip
EXPERIMENTS = sorted(path.stem for path in (Path(__file__).parents[1] / "conf" / "experiment").glob("*.yaml"))
HEALTHY = [f"experiment={name}" for name in EXPERIMENTS] + [
    "model=linear_net data=line optimizer.lr=0.01 steps=600",
    "model=linear_net data=line optimizer=adam optimizer.lr=0.01 steps=600",
    "model=mlp data=line optimizer.lr=0.01 steps=600",
    "model=mlp data=line optimizer=adam optimizer.lr=0.01 steps=600",
    "model=linear_net data=line data.slope=5 data.intercept=0 optimizer.lr=0.1 steps=600 log.every=5",
    "model=linear_net data=line data.low=-6 data.high=6 optimizer.lr=0.02 clip=none steps=300",
    "model=mlp data=digits optimizer=adam optimizer.lr=0.001 steps=600 log.every=10",
    "model=mlp data=digits optimizer.lr=0.1 optimizer.momentum=0.9 micro_batches=2 steps=600",
    "experiment=depth optimizer.lr=0.001 schedule.warmup=100",
]
PROVOKED = {
    "never used": "model=linear_net data=line optimizer.lr=0.01 steps=300",
    "gradients vanish": "experiment=depth model.gain=0.5",
    "gradients explode": "experiment=line_120 clip=none",
    "dead parameters": "model=mlp data=digits clip=none optimizer.lr=3 evaluate_every=20 steps=300",
    "large updates": "model=mlp data=digits optimizer.lr=5 steps=300",
    "small updates": "model=mlp data=digits optimizer.lr=1e-5 steps=300",
}


class Outcome(NamedTuple):
    """What a run logged. warnings: the lines. lowest, highest: the update ratios near the peak learning rate."""

    state: str
    warnings: list[str]
    lowest: float
    highest: float


def main(arguments: list[str] | None = None) -> None:
    parser = pages.parser(__doc__, PAGE)
    parser.add_argument("--jobs", type=int, default=1, help="runs in parallel")
    args = parser.parse_args(arguments)
    jobs = [(job, seed) for job in HEALTHY for seed in SEEDS]
    with TemporaryDirectory() as folder:
        healthy = dict(zip(jobs, in_processes(partial(run, Path(folder)), jobs, args.jobs), strict=True))
        provoked = {kind: run(Path(folder), (job, SEEDS[1])) for kind, job in PROVOKED.items()}
    pages.write(args.page, {"healthy": table(healthy), "provoked": provocations(provoked)})


def run(runs: Path, job: tuple[str, int]) -> Outcome:
    """Trains a job at a seed, in a folder of its own."""
    overrides, seed = job
    folder = runs / f"{overrides.replace('=', '_').replace(' ', '_')}_{seed}"
    result = trainer.train([*overrides.split(), f"seed={seed}", *QUIET], folder)
    logged = metrics.read(folder)
    rates = dict(logged[LR])
    peak = max(rates.values())
    ratios = [ratio for step, ratio in logged[UPDATE_RATIO] if rates[step] >= peak / 10]
    lines = (folder / LOG_FILE).read_text(encoding="utf-8").splitlines()
    found = [line.partition("warning: ")[2] for line in lines if "warning: " in line]
    return Outcome(result.state, found, min(ratios), max(ratios))


def table(outcomes: Mapping[tuple[str, int], Outcome]) -> str:
    """A row for each healthy job, with the kinds of its warnings at each seed."""
    head = ["job", "finished", "update ratio, near the peak learning rate", "warnings"]
    rows = []
    for job in HEALTHY:
        found = [outcomes[job, seed] for seed in SEEDS]
        finished = sum(each.state == "finished" for each in found)
        ratio = f"{min(each.lowest for each in found):.2g} to {max(each.highest for each in found):.2g}"
        rows.append([f"`{job}`", f"{finished} of {len(SEEDS)}", ratio, kinds(found)])
    return pages.table(head, rows)


def kinds(outcomes: Sequence[Outcome]) -> str:
    """The kinds of warnings of several runs, each with the number of the runs that logged it."""
    logged = [[line.partition(":")[0] for line in each.warnings] for each in outcomes]
    names = sorted({kind for each in logged for kind in each})
    return ", ".join(f"{name} ({sum(name in each for each in logged)} of {len(logged)})" for name in names) or "none"


def provocations(outcomes: Mapping[str, Outcome]) -> str:
    """The command that provokes each warning, and the line that it logged."""
    blocks = []
    for kind, outcome in outcomes.items():
        (line,) = [line for line in outcome.warnings if line.startswith(kind)]
        blocks.append(f"```text\n$ python train.py {PROVOKED[kind]}\n{line}\n```")
    return "\n\n".join(blocks)


if __name__ == "__main__":
    main()
