"""Measures the advice of scripts/suggest_max.py: `python evidence/advice_study.py` writes evidence/docs/advice.md.

Trains the default job at eight thresholds with three seeds each, computes the advice for each of these runs, and trains
with the advised thresholds. Finished runs are kept in outputs/advice and reused; half an hour on one core.
"""

import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from evidence import pages
from evidence.common import compose, in_processes, status_of
from runner.report.advice import SHARES, advice_for, norms_of, suggestions
from runner.runs.run import save_config

PAGE = pages.DOCS / "advice.md"
THRESHOLDS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
DEFAULT = 1.0
Point = tuple[float, int]  # a threshold and a seed
Losses = dict[Point, float | None]  # the best validation loss; None if the run diverged
Advised = dict[Point, list[float]]  # advised thresholds: the first advice, then those for the other shares


def main(arguments: list[str] | None = None) -> None:
    parser = pages.parser(__doc__, PAGE)
    parser.add_argument("--seeds", type=int, default=3, help="the number of seeds, from 1")
    parser.add_argument("--jobs", type=int, default=1, help="runs in parallel")
    parser.add_argument("--runs", type=Path, default=Path("outputs") / "advice", help="the folder of the runs")
    parser.add_argument("overrides", nargs="*", help="further overrides of the default job")
    args = parser.parse_args(arguments)
    seeds = range(1, args.seeds + 1)
    work = partial(train, args.runs, args.overrides)

    def losses(points: Sequence[Point]) -> Losses:
        return dict(zip(points, in_processes(work, points, args.jobs), strict=True))

    grid = losses([(threshold, seed) for seed in seeds for threshold in THRESHOLDS])
    advised = {point: advised_thresholds(folder(args.runs, point)) for point in grid}
    firsts = [(limits[0], seed) for (_, seed), limits in advised.items()]
    others = [(limit, seed) for seed in seeds for limit in advised[DEFAULT, seed][1:]]
    found = losses(list(dict.fromkeys(firsts + others)))
    pages.write(args.page, sections(grid, advised, found))
    draw(args.page.with_suffix(".png"), grid, advised, found)


def folder(runs: Path, point: Point) -> Path:
    """The folder of the run with a threshold and a seed."""
    threshold, seed = point
    return runs / f"{threshold:.6g}_{seed}"


def train(runs: Path, overrides: Sequence[str], point: Point) -> float | None:
    """The best validation loss of a run, which is trained if it does not exist yet; None if it diverged."""
    threshold, seed = point
    chosen = (f"clip.max={threshold!r}", f"seed={seed}")
    run, job = folder(runs, point), ("experiment=default_job", *chosen, *overrides)
    run.mkdir(parents=True, exist_ok=True)
    save_config(compose(*job), run)  # the advice reads the optimizer's values
    status = status_of(run, *job)
    return status["objective"] if status["state"] == "finished" else None


def advised_thresholds(run: Path) -> list[float]:
    """The thresholds that are advised for the norms of a run, the first advice first."""
    others = suggestions(norms_of(run))[1 : len(SHARES)]
    return [advice_for(run).threshold, *(suggestion.threshold for suggestion in others)]


def sections(grid: Losses, advised: Advised, found: Losses) -> dict[str, str]:
    """Makes the tables: the grid, the losses with the advice of the default run, and of the runs at each threshold."""
    seeds = sorted({seed for _, seed in grid})
    best = {seed: min(loss for (_, s), loss in grid.items() if s == seed and loss is not None) for seed in seeds}

    def largest_excess(losses: Sequence[float | None]) -> float:
        """The largest relative excess, over the seeds, of a loss over the best of the grid."""
        return max((loss or float("inf")) / lowest - 1 for loss, lowest in zip(losses, best.values(), strict=True))

    rows = [[f"{limit:g}", *(number(grid[limit, seed]) for seed in seeds)] for limit in THRESHOLDS]
    after_default = [
        [str(seed), f"{100 * share:g} %", f"{limit:.3g}", number(found[limit, seed]), number(best[seed]),
         percent((found[limit, seed] or float("inf")) / best[seed] - 1)]
        for seed in seeds for share, limit in zip(SHARES, advised[DEFAULT, seed], strict=True)
    ]  # fmt: skip
    others = []
    for threshold in THRESHOLDS:
        limits = [advised[threshold, seed][0] for seed in seeds]
        losses = [found[limit, seed] for limit, seed in zip(limits, seeds, strict=True)]
        before = mean([grid[threshold, seed] for seed in seeds])
        first_advice = ", ".join(f"{limit:.3g}" for limit in limits)
        others.append([f"{threshold:g}", first_advice, before, mean(losses), percent(largest_excess(losses))])
    head = ["seed", "share of steps clipped", "threshold", "loss with it", "best of the grid", "behind"]
    titles = [
        "run at",
        "first advice",
        "loss of that run",
        "loss with the advice",
        "behind the best, at the worst seed",
    ]
    return {
        "grid": pages.table(["`clip.max`", *(f"seed {seed}" for seed in seeds)], rows),
        "default": pages.table(head, after_default),
        "others": pages.table(titles, others),
    }


def mean(losses: Sequence[float | None]) -> str:
    """Formats the mean of the finite losses, and the number of runs that diverged."""
    finished = [loss for loss in losses if loss is not None]
    diverged = f"{len(losses) - len(finished)} diverged" if len(finished) < len(losses) else ""
    return ", ".join(filter(None, [f"{statistics.fmean(finished):.3f}" if finished else "", diverged]))


def number(loss: float | None) -> str:
    return "diverged" if loss is None else f"{loss:.3f}"


def percent(share: float) -> str:
    return f"{100 * share:+.1f} %"


def draw(path: Path, grid: Losses, advised: Advised, found: Losses) -> None:
    """Plots the loss against the threshold for every seed, and the loss with the first advice."""
    pyplot = pages.pyplot()
    figure, axes = pyplot.subplots(figsize=(8, 3.6), dpi=100, layout="constrained")
    seeds = sorted({seed for _, seed in grid})
    for seed, colour in zip(seeds, pages.COLOURS, strict=False):
        finished = [(limit, loss) for limit in THRESHOLDS if (loss := grid[limit, seed]) is not None]
        axes.plot(*zip(*finished, strict=True), color=colour, marker="o", markersize=4, label=f"grid, seed {seed}")
        limit = advised[DEFAULT, seed][0]
        if (loss := found[limit, seed]) is not None:
            axes.plot([limit], [loss], color=colour, marker="*", markersize=15, linestyle="", markeredgecolor="black",
                      label="first advice" if seed == seeds[0] else None)  # fmt: skip
    axes.set(xscale="log", xlabel="clip.max", ylabel="best validation loss")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
