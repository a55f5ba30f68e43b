"""Is the advice of scripts/suggest_max.py any good? `python evidence/advice_study.py` writes docs/advice.md.

Trains the default job at eight thresholds with three seeds each, asks for advice after every one of these runs,
and trains with what it said. Runs are kept in outputs/advice, and not trained again; half an hour on one core.
"""

import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from runner.compose import Composer, checked
from runner.errors import Parser
from runner.report.advice import SHARES, advice, norms_of, status_of, suggestions
from runner.sweeps.results import ENDED

PAGE = Path(__file__).parents[1] / "evidence" / "docs" / "advice.md"
THRESHOLDS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
DEFAULT = 1.0


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(description="Studies the advice of scripts/suggest_max.py.")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 1 on")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--runs", type=Path, default=Path("outputs") / "advice", help="where the runs are kept")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page that is written, and a picture beside it")
    parser.add_argument("overrides", nargs="*", help="further overrides of the default job")
    args = parser.parse_args(arguments)
    seeds = range(1, args.seeds + 1)
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        points = [(args.runs, threshold, seed, args.overrides) for seed in seeds for threshold in THRESHOLDS]
        grid = {point[1:3]: found for point, found in zip(points, pool.map(train, points), strict=True)}
        said = {key: ask(folder(args.runs, *key)) for key in grid}
        first = [(args.runs, limits[0], seed, args.overrides) for (_, seed), limits in said.items()]
        others = [(args.runs, limit, seed, args.overrides) for (start, seed), limits in said.items()
                  if start == DEFAULT for limit in limits[1:]]  # fmt: skip
        advised = {
            point[1:3]: found for point, found in zip(first + others, pool.map(train, first + others), strict=True)
        }
    text = page(grid, said, advised, list(seeds), args.overrides)
    args.page.write_text(text, encoding="utf-8")
    draw(args.page.with_suffix(".png"), grid, said, advised, list(seeds))
    print(text)


def folder(runs: Path, threshold: float, seed: int) -> Path:
    return runs / f"{threshold:.6g}_{seed}"


def ask(run: Path) -> list[float]:
    """The first advice after a run, and the thresholds for the other shares of clipped steps."""
    norms = norms_of(run)
    return [advice(norms, status_of(run)).threshold] + [each.threshold for each in suggestions(norms)[1 : len(SHARES)]]


def train(point: tuple[Path, float, int, list[str]]) -> float | None:
    """The best validation loss of the run, from its folder where it has run already; None where it diverged."""
    from trainer.loop import run_recorded

    runs, threshold, seed, more = point
    place = folder(runs, threshold, seed)
    status = status_of(place)
    if status.get("state") not in ENDED:
        overrides = [
            "clip=norm",
            f"clip.max={threshold!r}",
            f"seed={seed}",
            "data.sample=0",
            "log.progress=false",
            *more,
        ]
        composer = Composer(CONF)
        if run_recorded(checked(composer.compose(composer.quoted(overrides))), place).interrupted:
            sys.exit(130)
        status = status_of(place)
    return status["objective"] if status["state"] == "finished" else None


Losses = dict[tuple[float, int], float | None]
Said = dict[tuple[float, int], list[float]]


def page(grid: Losses, said: Said, advised: Losses, seeds: list[int], overrides: list[str]) -> str:
    """The grid, what the advice came to from the default run, and from a run at any other threshold."""
    best = {seed: min(v for (_, s), v in grid.items() if s == seed and v is not None) for seed in seeds}
    command = " ".join(["python evidence/advice_study.py", *overrides])
    lines = [
        "# How good the first advice on a threshold is", "",
        f"Written by `{command}`. The default job under `clip=norm`, best validation loss; - diverged.", "",
        "![The grid and the advice](advice.png)", "",
        f"| `clip.max` | {' | '.join(f'seed {seed}' for seed in seeds)} |", "|---|" + "---|" * len(seeds),
    ]  # fmt: skip
    for threshold in THRESHOLDS:
        lines.append(f"| {threshold:g} | {' | '.join(number(grid[threshold, seed]) for seed in seeds)} |")
    lines += ["", f"From the norms of the run at {DEFAULT:g}, the default, `scripts/suggest_max.py` says:", "",
              "| seed | share of steps clipped | threshold | loss with it | best of the grid | behind |",
              "|---|---|---|---|---|---|"]  # fmt: skip
    for seed in seeds:
        for place, limit in enumerate(said[DEFAULT, seed]):
            loss = advised[limit, seed]
            name = f"{100 * SHARES[place]:g} %" + (", the first advice" if place == 0 else "")
            behind = f"{100 * (loss / best[seed] - 1):+.1f} %" if loss is not None else "diverged"
            lines.append(f"| {seed} | {name} | {limit:.3g} | {number(loss)} | {number(best[seed])} | {behind} |")
    lines += ["", "The first advice after a run at another threshold, mean over the seeds:", "",
              "| run at | advice | loss of that run | loss with the advice | behind the best |",
              "|---|---|---|---|---|"]  # fmt: skip
    for threshold in THRESHOLDS:
        firsts = [said[threshold, seed][0] for seed in seeds]
        losses = [advised[limit, seed] for limit, seed in zip(firsts, seeds, strict=True)]
        advice = ", ".join(f"{limit:.3g}" for limit in firsts)
        before = mean([grid[threshold, seed] for seed in seeds])
        lines.append(f"| {threshold:g} | {advice} | {before} | {mean(losses)} | {behind_best(losses, best)} |")
    worst = max((advised[said[DEFAULT, seed][0], seed] or float("inf")) / best[seed] - 1 for seed in seeds)
    within = "within" if worst <= 0.1 else "not within"
    lines += ["", f"At the worst of the {len(seeds)} seeds the first advice from the default run is "
              f"{100 * worst:+.1f} % from the best of the grid: {within} 10 %."]  # fmt: skip
    return "\n".join(lines) + "\n"


def behind_best(losses: list[float | None], best: dict[int, float]) -> str:
    if None in losses:
        return f"{losses.count(None)} of {len(losses)} diverged"
    worst = max((loss or 0.0) / each - 1 for loss, each in zip(losses, best.values(), strict=True))
    return f"{100 * worst:+.1f} % at the worst seed"


def mean(losses: list[float | None]) -> str:
    there = [loss for loss in losses if loss is not None]
    return (f"{statistics.fmean(there):.3f}" if there else "") + (
        f" ({losses.count(None)} diverged)" if None in losses else ""
    )


def number(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.3f}"


def draw(path: Path, grid: Losses, said: Said, advised: Losses, seeds: list[int]) -> None:
    """The loss against the threshold for every seed, and where the advice led."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 3.6), dpi=100, layout="constrained")
    for seed, colour in zip(seeds, ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"), strict=False):
        found = [(threshold, loss) for threshold in THRESHOLDS if (loss := grid[threshold, seed]) is not None]
        axes.plot(*zip(*found, strict=True), color=colour, marker="o", markersize=4, label=f"grid, seed {seed}")
        limit = said[DEFAULT, seed][0]
        if (loss := advised[limit, seed]) is not None:
            axes.plot([limit], [loss], color=colour, marker="*", markersize=15, linestyle="", markeredgecolor="black",
                      label="first advice" if seed == seeds[0] else None)  # fmt: skip
    axes.set(xscale="log", xlabel="clip.max", ylabel="best validation loss")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
