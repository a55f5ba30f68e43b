"""One weight whose first gradient is -120, without clipping, with it, and with a decaying rate."""

import math
from dataclasses import dataclass
from typing import Any

from evidence.common import compose, walk
from evidence.pages import COLOURS, MARKERS, table

CLIPS = ("none", "norm", "value")
MAX, SOLUTION = 1.0, 4.0
SCHEDULES = ("constant", "linear")


@dataclass
class Course:
    """One run. weights: before each step and at the end; gradients: (before, after clipping) of the first step.

    loss_ends, weight_ends: the steps that first had a loss, or left a weight, that is not finite.
    """

    clip: str
    schedule: str
    weights: list[float]
    gradients: tuple[float, float]
    bias_gradients: tuple[float, float]
    away: float  # from the solution, at the end
    bound: float  # lr * max
    loss_ends: int | None
    weight_ends: int | None


def measure() -> list[Course]:
    """Every clipping at a constant rate, and those that end at a solution with a decaying one."""
    return [
        follow(clip, schedule) for schedule in SCHEDULES for clip in CLIPS if clip != "none" or schedule == "constant"
    ]


def follow(clip: str, schedule: str) -> Course:
    """One run of the experiment, to its end."""
    limit = [] if clip == "none" else [f"clip.max={MAX}"]
    config = compose("experiment=line_120", f"clip={clip}", *limit, f"schedule={schedule}")
    weights, first, loss_ends, weight_ends = [], {}, None, None
    for number, state, loss, report in walk(config):
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
    return Course(clip, schedule, weights, gradients, bias, away, bound, loss_ends, weight_ends)


def page(courses: list[Course]) -> str:
    """The table of the page."""
    rows = []
    for each in courses:
        if each.weight_ends is None:
            end = f"{each.weights[-1]:.6g}, {each.away:.2g} away"
        else:
            end = f"not finite after step {each.weight_ends} (the loss at step {each.loss_ends})"
        before, after = zip(each.gradients, each.bias_gradients, strict=True)
        rows.append([
            f"`clip={each.clip}`", each.schedule, f"({before[0]:.6g}, {before[1]:.6g})",
            f"({after[0]:.6g}, {after[1]:.4g})", ", ".join(f"{weight:.5g}" for weight in each.weights[:4]), end,
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


def draw(courses: list[Course], pyplot: Any) -> Any:
    """How far the weight is from the solution, over the steps."""
    figure, axes = pyplot.subplots(figsize=(8, 3.6), dpi=100, layout="constrained")
    for each, colour, marker in zip(courses, COLOURS, MARKERS, strict=False):
        away = [abs(weight - SOLUTION) for weight in each.weights]
        style = "-" if each.schedule == "constant" else "--"
        axes.plot(away, style, color=colour, marker=marker, markevery=8, markersize=4, linewidth=1.2,
                  label=f"clip={each.clip}, {each.schedule} rate")  # fmt: skip
    axes.axhline(courses[0].bound, color="#999999", linewidth=1)
    axes.annotate("lr · max", (102, courses[0].bound), fontsize=8, va="center", annotation_clip=False)
    axes.set(yscale="log", xlabel="step", ylabel="|weight - 4|", ylim=(1e-6, 1e6), xlim=(-1, 101))
    axes.legend(fontsize=8, loc="upper right")
    axes.grid(alpha=0.3)
    return figure
