"""What the plots of a report have in common: colors, markers, and the names of runs."""

from typing import Any

from runner.report.aggregate import Table
from runner.report.rows import Row
from runner.report.trials import Trial

# Colors that people with color blindness can distinguish (Okabe and Ito), with a marker each.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def policies(table: Table) -> list[str]:
    """The names of the policies, in the order of their best rows."""
    return list(dict.fromkeys(row.policy for row in table.rows))


def color_of(table: Table, policy: str) -> str:
    """The color of a policy, the same in all plots."""
    return COLORS[policies(table).index(policy) % len(COLORS)]


def marker_of(table: Table, policy: str) -> str:
    """The marker of a policy, the same in all plots."""
    return MARKERS[policies(table).index(policy) % len(MARKERS)]


def best_rows(table: Table) -> list[Row]:
    """The best row of each policy."""
    return [next(row for row in table.rows if row.policy == policy) for policy in policies(table)]


def run_name(table: Table, trial: Trial) -> str:
    """The run behind a plot: its job, or its folder if it is none of a sweep, and its seed."""
    folder = trial.result.folder
    several = len({each.result.folder.parent for each in table.trials}) > 1
    name = f"{folder.parent.name}/{folder.name}" if several else folder.name
    seed = "" if trial.seed is None else f", seed {trial.seed}"
    return f"{'job' if folder.name.isdigit() else 'run'} {name}{seed}"


def run_label(table: Table, row: Row) -> str:
    """The label of a row's best run: the configuration, and which run it is."""
    return ", ".join(filter(None, (table.name(row), run_name(table, row.best_trial))))


def use_plain_ticks(axes: Any) -> None:
    """Labels logarithmic axes with numbers such as 0.5, in place of powers of ten."""
    from runner.report.plain_ticks import PlainTicks

    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_formatter(PlainTicks())
            axis.set_minor_formatter(PlainTicks(labelOnlyBase=False, minor_thresholds=(1, 0.4)))


def finish(axes: Any, title: str = "") -> None:
    """Adds the grid, the title and the legend, and plain numbers at logarithmic axes."""
    use_plain_ticks(axes)
    axes.grid(alpha=0.3, which="both" if axes.get_xscale() == "log" else "major")
    if title:
        axes.set_title(title, fontsize=9)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)


def note(
    axes: Any, text: str, point: tuple[float | None, float], color: str, transform: Any = None, below: bool = False
) -> None:
    """Writes a small text beside a point, which is in the coordinates of the data unless `transform` says otherwise."""
    axes.annotate(text, point, xycoords=transform or "data", xytext=(4, -12 if below else 6),
                  textcoords="offset points", color=color, fontsize=8)  # fmt: skip
