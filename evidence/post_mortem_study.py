"""Follows the post-mortems of ten diverging runs: `python evidence/post_mortem_study.py` writes docs/post_mortem.md.

Each setting is trained on the command line until it diverges, and the first command of its post-mortem is run. Its
final validation loss is ranked among the 25 runs of a grid: five learning rates, from that of the setting down, and
five thresholds of clip=norm. Finished runs are kept in outputs/post_mortem and reused; an hour on one core.

The method was made with the settings in BUILT_WITH. Those in SET_ASIDE were not run before it was finished.
"""

import logging
import math
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from evidence import pages
from evidence.common import in_processes, status_of
from runner.report.post_mortem import ABOVE_REACH, CLIPPED_UPDATE, EXPLOSION, UPDATE, VANISHING
from runner.report.post_mortem_text import FILE
from runner.runs.status import read_status
from runner.sweeps.results import ENDED
from runner.tracking import metrics
from runner.tracking.tags import VALIDATION_LOSS

ROOT = Path(__file__).parents[1]
PAGE = pages.DOCS / "post_mortem.md"
RATES = (1, 1 / 3, 1 / 10, 1 / 30, 1 / 100)  # shares of the setting's learning rate
THRESHOLDS = (0.01, 0.1, 1.0, 10.0, 100.0)
QUIET = ("log.gradient_norms=false", "log.progress=false", "device.threads=1")


@dataclass(frozen=True)
class Setting:
    """A run that diverges: its overrides but for the policy and the learning rate, and the cause that is built in."""

    task: str
    clip: str
    lr: float
    cause: str

    @property
    def overrides(self) -> list[str]:
        return [*self.task.split(), *self.clip.split(), f"optimizer.lr={self.lr:g}"]


LINE = "model=linear_net data=line data.low=-6 data.high=6 data.slope=4 steps=100"
BUILT_WITH = {
    "mlp": Setting("model=mlp data=digits steps=300", "clip=norm clip.max=1", 30, CLIPPED_UPDATE),
    "rnn": Setting("model=rnn data=text steps=300", "clip=none", 3, EXPLOSION),
    "lstm, adam": Setting("model=lstm data=text optimizer=adam steps=300", "clip=norm clip.max=1", 1, CLIPPED_UPDATE),
    "deep_linear, adam": Setting(
        "model=deep_linear model.gain=0.5 data=direction optimizer=adam steps=200",
        "clip=norm clip.max=1",
        0.1,
        VANISHING,
    ),
    "linear_net, momentum": Setting(f"{LINE} optimizer.momentum=0.9", "clip=norm clip.max=1000", 0.3, ABOVE_REACH),
}
SET_ASIDE = {
    "rnn, rmsprop": Setting(
        "model=rnn data=temporal_order optimizer=rmsprop steps=300", "clip=norm clip.max=1", 0.1, CLIPPED_UPDATE
    ),
    "lstm, momentum": Setting(
        "model=lstm data=text optimizer.momentum=0.9 steps=300", "clip=norm clip.max=1000", 10, ABOVE_REACH
    ),
    "deep_linear": Setting("model=deep_linear model.gain=1.5 data=direction steps=200", "clip=none", 0.003, EXPLOSION),
    "mlp, adam": Setting("model=mlp data=digits optimizer=adam steps=300", "clip=none", 1, UPDATE),
    "linear_net": Setting(LINE, "clip=norm clip.max=100", 0.1, CLIPPED_UPDATE),
}


@dataclass(frozen=True)
class Outcome:
    """What the post-mortem of a setting said, and what came of its first command.

    step: at which the setting diverged. loss: the final validation loss of the command, infinite unless its exit
    status is 0. rank: the cells of the grid that are better. best: the lowest loss of the grid.
    """

    step: int
    cause: str
    command: str
    status: int
    loss: float
    rank: int
    best: float
    diverged: int


def main(arguments: list[str] | None = None) -> None:
    parser = pages.parser(__doc__, PAGE)
    parser.add_argument("--runs", type=Path, default=Path("outputs") / "post_mortem", help="the folder of the runs")
    parser.add_argument("--jobs", type=int, default=1, help="runs in parallel")
    parser.add_argument("--part", choices=("both", "built_with", "set_aside"), default="both", help="the settings")
    args = parser.parse_args(arguments)
    parts = {name: settings for name, settings in (("built_with", BUILT_WITH), ("set_aside", SET_ASIDE))
             if args.part in (name, "both")}  # fmt: skip
    sections = {}
    for part, settings in parts.items():
        outcomes = {name: follow(args.runs.absolute(), name, setting, args.jobs) for name, setting in settings.items()}
        sections[part] = table(settings, outcomes)
        sections[f"{part}_commands"] = commands(outcomes)
    pages.write(args.page, sections)


def follow(runs: Path, name: str, setting: Setting, jobs: int) -> Outcome:
    """Trains a setting, runs the first command of its post-mortem, and ranks it in the grid."""
    folder = runs / re.sub(r"\W+", "_", name)
    train(folder / "diverged", ["python", "train.py", *setting.overrides])
    text = (folder / "diverged" / FILE).read_text(encoding="utf-8")
    cause, command = re.findall(r"^Cause: (.*)\.$", text, re.M)[0], re.findall(r"^ +(python .*)$", text, re.M)[0]
    status = train(folder / "followed", shlex.split(command))
    loss = final_loss(folder / "followed") if status == 0 else math.inf
    points = [(setting.lr * rate, threshold) for rate in RATES for threshold in THRESHOLDS]
    grid = in_processes(partial(cell, folder, setting.task.split()), points, jobs)
    step = read_status(folder / "diverged")["step"]
    better = sum(each < loss for each in grid)
    return Outcome(step, cause, command, status, loss, better, min(grid), sum(map(math.isinf, grid)))


def train(folder: Path, command: Sequence[str]) -> int:
    """Runs a command with its run in a folder, unless that has ended already; returns its exit status."""
    status = read_status(folder).get("state")
    if status in ENDED:
        return 0 if status == "finished" else 3
    extra = [f"hydra.run.dir={folder}", *QUIET]
    return subprocess.run(
        [sys.executable, *command[1:], *extra], cwd=ROOT, stdout=subprocess.DEVNULL, check=False
    ).returncode


def cell(folder: Path, task: Sequence[str], point: tuple[float, float]) -> float:
    """The final validation loss of a cell of the grid; infinite if it diverged."""
    logging.disable(logging.WARNING)  # the warnings of 25 runs
    lr, threshold = point
    run = folder / f"{lr:.3g}_{threshold:g}"
    steady = ("post_mortem.replay_steps=0", "post_mortem.try_steps=0", *QUIET)
    status = status_of(run, *task, "clip=norm", f"clip.max={threshold:g}", f"optimizer.lr={lr:.4g}", *steady)
    return final_loss(run) if status["state"] == "finished" else math.inf


def final_loss(run: Path) -> float:
    """The validation loss of a run's last step."""
    return metrics.read(run)[VALIDATION_LOSS][-1][1]


def table(settings: Mapping[str, Setting], outcomes: Mapping[str, Outcome]) -> str:
    """A row for each setting."""
    head = ["setting", "diverged at step", "cause built in", "cause named", "exit status", "final loss",
            "best of the grid", "better cells, of 25", "diverged cells"]  # fmt: skip
    rows: list[list[Any]] = []
    for name, outcome in outcomes.items():
        named = "the same" if outcome.cause == settings[name].cause else outcome.cause
        rows.append([name, str(outcome.step), settings[name].cause, named, str(outcome.status), f"{outcome.loss:.4g}",
                     f"{outcome.best:.4g}", str(outcome.rank), str(outcome.diverged)])  # fmt: skip
    return pages.table(head, rows)


def commands(outcomes: Mapping[str, Outcome]) -> str:
    """The first command of each post-mortem."""
    return "\n".join(["```bash", *(outcome.command for outcome in outcomes.values()), "```"])


if __name__ == "__main__":
    main()
