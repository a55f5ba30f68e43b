"""One weight whose first gradient is -120: without clipping, with it, and with a decaying learning rate."""

import math
from dataclasses import dataclass
from typing import Any

from evidence.common import compose, run_steps
from evidence.pages import COLOURS, MARKERS, table

CLIPS = ("none", "norm", "value")
MAX, SOLUTION = 1.0, 4.0
SCHEDULES = ("constant", "linear")


@dataclass
class LineRun:
    """The results of one run.

    weights: before each step, and at the end. gradients, bias_gradients: before and after clipping, at the first step.
    away: the weight's distance from the solution at the end. bound: lr * max. loss_ends, weight_ends: the first step
    with a loss that is not finite, and the first after which the weight is not.
    """

    clip: str
    schedule: str
    weights: list[float]
    gradients: tuple[float, float]
    bias_gradients: tuple[float, float]
    away: float
    bound: float
    loss_ends: int | None
    weight_ends: int | None


def measure() -> list[LineRun]:
    """Trains with every kind of clipping at a constant rate, and with a decaying rate if the run converges."""
    return [
        train(clip, schedule) for schedule in SCHEDULES for clip in CLIPS if clip != "none" or schedule == "constant"
    ]


def train(clip: str, schedule: str) -> LineRun:
    """Trains one run of the experiment."""
    limit = [] if clip == "none" else [f"clip.max={MAX}"]
    config = compose("experiment=line_120", f"clip={clip}", *limit, f"schedule={schedule}")
    weights, first, loss_ends, weight_ends = [], {}, None, None
    for number, state, loss, report in run_steps(config):
        net: Any = state.model
        if number == 1:
            signs = {"linear.weight": net.linear.weight.grad.sign(), "linear.bias": net.linear.bias.grad.sign()}
            norms = report.by_parameter()
            first = {name: tuple(sign.item() * norm for norm in norms[name]) for name, sign in signs.items()}
            weights.append(1.0)
        weights.append(net.linear.weight.item())
        loss_ends = number if loss_ends is None and not loss.isfinite() else loss_ends
        weight_ends = number if weight_ends is None and not math.isfinite(weights[-1]) else weight_ends
    bound, away = config.optimizer.lr * MAX, abs(weights[-1] - SOLUTION)
    gradients, bias = first["linear.weight"], first["linear.bias"]
    return LineRun(clip, schedule, weights, gradients, bias, away, bound, loss_ends, weight_ends)


def page(runs: list[LineRun]) -> str:
    """Makes the table of the page."""
    rows = []
    for run in runs:
        if run.weight_ends is None:
            end = f"{run.weights[-1]:.6g}, {run.away:.2g} away"
        else:
            end = f"not finite after step {run.weight_ends} (the loss at step {run.loss_ends})"
        before, after = zip(run.gradients, run.bias_gradients, strict=True)
        rows.append([
            f"`clip={run.clip}`", run.schedule, f"({before[0]:.6g}, {before[1]:.6g})",
            f"({after[0]:.6g}, {after[1]:.4g})", ", ".join(f"{weight:.5g}" for weight in run.weights[:4]), end,
        ])  # fmt: skip
    header = [
        "",
        "rate",
        "first gradient (weight, bias)",
        "after clipping",
        "the weight's first values",
        "after 100 steps",
    ]
    return table(header, rows)


def draw(runs: list[LineRun], pyplot: Any) -> Any:
    """Plots the weight's distance from the solution over the steps."""
    figure, axes = pyplot.subplots(figsize=(8, 3.6), dpi=100, layout="constrained")
    for run, colour, marker in zip(runs, COLOURS, MARKERS, strict=False):
        away = [abs(weight - SOLUTION) for weight in run.weights]
        style = "-" if run.schedule == "constant" else "--"
        axes.plot(away, style, color=colour, marker=marker, markevery=8, markersize=4, linewidth=1.2,
                  label=f"clip={run.clip}, {run.schedule} rate")  # fmt: skip
    axes.axhline(runs[0].bound, color="#999999", linewidth=1)
    axes.annotate("lr · max", (102, runs[0].bound), fontsize=8, va="center", annotation_clip=False)
    axes.set(yscale="log", xlabel="step", ylabel="|weight - 4|", ylim=(1e-6, 1e6), xlim=(-1, 101))
    axes.legend(fontsize=8, loc="upper right")
    axes.grid(alpha=0.3)
    return figure
