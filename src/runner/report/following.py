"""The commands of the sweeps that may follow one: more seeds, and values beyond or between those that were tried."""

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import Any, TypeGuard

from runner.report.aggregate import Table
from runner.report.override_text import format_override_value, override_key
from runner.report.rows import POLICY, RATE, THRESHOLD, Row
from runner.report.trials import SEED

WHOLE = 6  # up to so many configurations, all are repeated
FEW = 3  # else so many


@dataclass(frozen=True)
class Edge:
    """A key whose value in the best row is the highest, or else the lowest, that was tried, and values beyond it."""

    key: str
    value: str
    highest: bool
    beyond: list[str]


def command(table: Table, rows: Sequence[Row], overrides: Sequence[str], seeds: Sequence[int]) -> str:
    """The command of a sweep with these overrides and seeds, and the overrides that all jobs share, unless replaced.

    rows: those whose options the sweep has. A shared override of a key that none of them has is left out:
    `clip=none,norm clip.max=1` is a sweep, and `clip=none clip.max=1` is no run.
    """
    words = [*_shared(table, rows, overrides), *overrides]
    return shlex.join(["python", "train.py", "-m", *words, f"{SEED}={','.join(map(str, seeds))}"])


def _shared(table: Table, rows: Sequence[Row], overrides: Sequence[str]) -> list[str]:
    """The overrides that all jobs share, without those that are replaced, and those of keys that no row has."""
    own = {override.partition("=")[0] for override in overrides}
    keys = [line.lstrip("+").partition("=")[0] for line in table.fixed]
    return [line for line, key in zip(table.fixed, keys, strict=True)
            if key not in own and (line.startswith("+") or any(_has(row, key) for row in rows))]  # fmt: skip


def _has(row: Row, key: str) -> bool:
    """Whether a row has a key or keys below it; true of a key that belongs to no group of options."""
    key = key.rpartition("@")[2]  # of clip@clip.links.whole, the path
    group = key.partition(".")[0]
    if key == group or f"{group}.name" not in row.values:
        return True
    return any(name == key or name.startswith(f"{key}.") for name in row.values)


def repeated(table: Table, rows: Sequence[Row], count: int) -> list[str]:
    """The commands that repeat these rows with so many seeds, of which the first are those that they have already.

    rows: the best first. Of many rows only the first few are repeated.
    """
    chosen = rows if len(rows) <= WHOLE else rows[:FEW]
    return [command(table, grid, table.overrides(grid), seeds(chosen, count)) for grid in _grids(table, chosen)]


def _grids(table: Table, rows: Sequence[Row]) -> list[list[Row]]:
    """The rows as one grid, if all its points are rows of the table, else as a grid for each policy.

    One grid for clip=norm clip.max=1 and clip=autoclip would cap the latter, which is another configuration.
    """
    values = [list(dict.fromkeys(_point(row, key) for row in rows if key in row.values)) for key in table.columns]
    points = product(*(each or [""] for each in values))
    if all(any(_is_point(table, row, point) for row in table.rows) for point in points):
        return [list(rows)]
    grids: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        names = (override.partition("=")[0] for override in table.overrides([row]))
        grids.setdefault((row.policy, *names), []).append(row)
    return list(grids.values())


def _point(row: Row, key: str) -> str:
    return format_override_value(row.values[key])


def _is_point(table: Table, row: Row, point: Sequence[str]) -> bool:
    """Whether a row is what a point of a grid becomes, of which a sweep drops the keys that the row does not have."""
    return all(key not in row.values or _point(row, key) == value
               for key, value in zip(table.columns, point, strict=True))  # fmt: skip


def seeds(rows: Sequence[Row], count: int) -> list[int]:
    """The seeds of the rows, and the smallest further ones, from 1, until there are at least so many."""
    known = sorted({trial.seed for row in rows for trial in row.trials if trial.seed is not None})
    further = (seed for seed in range(1, len(known) + count + 1) if seed not in known)
    return sorted([*known, *islice(further, max(count - len(known), 0))])


def edges(table: Table, best: Row, equal: Sequence[Row] = ()) -> list[Edge]:
    """The keys in which the best row is at the edge of the values that were tried with its other values.

    equal: rows with the same results. Where a lower threshold is among them, a higher one gives them again.
    """
    found = []
    for key in table.columns:
        tried = values_tried(table, best, key)
        if len(tried) < 2 or best.values[key] not in (tried[0], tried[-1]):
            continue
        highest = best.values[key] == tried[-1]
        if key == THRESHOLD and highest and tried[-2] in values_tried(replace(table, rows=[best, *equal]), best, key):
            continue
        values = list(_beyond(*(tried[-2:] if highest else tried[1::-1])))
        if beyond := list(_accepted(table, best, key, values)):
            found.append(Edge(override_key(key), format_override_value(best.values[key]), highest, beyond))
    return found


def values_tried(table: Table, best: Row, key: str) -> list[float]:
    """The numbers that a key has in the rows with results that otherwise equal the best one, in ascending order.

    Empty if the best row has no number.
    """
    if not _is_number(best.values.get(key)):
        return []
    others = [other for other in table.columns if other != key]
    rows = [row for row in table.rows if any(trial.result.ended for trial in row.trials)
            and all(row.values.get(other) == best.values.get(other) for other in others)]  # fmt: skip
    return sorted({row.values[key] for row in rows if _is_number(row.values.get(key))})


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _beyond(neighbor: float, edge: float) -> Iterator[float]:
    """Two values beyond an edge, in the ratio of the last two if both are positive, else at their distance.

    Whole numbers stay whole. Values are rounded to two digits if that keeps them apart.
    """
    if not math.isfinite(neighbor) or not math.isfinite(edge):
        return
    last = edge
    for _ in range(2):
        exact = last * edge / neighbor if min(neighbor, edge) > 0 else last + (edge - neighbor)
        if isinstance(edge, int) and isinstance(neighbor, int):
            value: float = round(exact)
        else:
            short = float(f"{exact:.2g}")
            value = short if abs(short - exact) < abs(exact - last) / 2 else exact
        if value == last or (value <= 0 < edge and neighbor > 0):
            return
        yield value
        last = value


def _accepted(table: Table, best: Row, key: str, values: Sequence[float]) -> Iterator[str]:
    """The values that the project accepts in place of the best row's; all, if it does not accept those of the best."""
    name, own = override_key(key), table.overrides([best])
    others = [override for override in own if override.partition("=")[0] != name]
    shared = _shared(table, [best], own)
    known = bool(values) and table.accepts([*shared, *own])
    for value in map(format_override_value, values):
        if not known or table.accepts([*shared, *others, f"{name}={value}"]):
            yield value


def extended(table: Table, best: Row, found: Sequence[Edge], count: int) -> str:
    """The command that extends the grid beyond its edges, with the best row's own values and seeds."""
    lists = {edge.key: ",".join([edge.value, *edge.beyond][:: 1 if edge.highest else -1]) for edge in found}
    return command(table, [best], _replaced(table, best, lists), seeds([best], count))


def between(table: Table, best: Row, count: int) -> str | None:
    """The command with thresholds between the best one and its neighbors; None if it has not two."""
    tried = values_tried(table, best, THRESHOLD) if THRESHOLD in table.columns else []
    index = tried.index(best.values[THRESHOLD]) if tried else 0
    if not 0 < index < len(tried) - 1:
        return None
    below, own, above = tried[index - 1 : index + 2]
    thresholds = f"{math.sqrt(below * own):.2g},{format_override_value(own)},{math.sqrt(own * above):.2g}"
    return command(table, [best], _replaced(table, best, {THRESHOLD: thresholds}), seeds([best], count))


def _replaced(table: Table, row: Row, values: dict[str, str]) -> list[str]:
    """A row's overrides, of which some have other values."""
    pairs = (override.partition("=")[::2] for override in table.overrides([row]))
    return [f"{key}={values.get(key, value)}" for key, value in pairs]


def lower(table: Table) -> tuple[str, str] | None:
    """After divergence: what to try, and its command; None if the project has no clipping, and no learning rate.

    Thresholds below those of the first policy with one of its own, or clip=norm if there is none. If every optimizer
    divides the gradient by its own size, lower learning rates, since another threshold hardly changes its steps.
    """
    limited = [row for row in table.rows if not row.settings.normalizes and math.isfinite(_limit(row))]
    if limited:
        return _lower_thresholds(table, [row for row in limited if row.policy == limited[0].policy])
    if plain := [row for row in table.rows if not row.settings.normalizes]:
        return ("clipping", _clipping(table, plain[0])) if any(POLICY in row.values for row in plain) else None
    return _lower_rates(table, [row for row in table.rows if row.settings.lr])


def _limit(row: Row) -> float:
    """The row's own threshold; infinity without one."""
    return math.inf if row.fixed_threshold is None else row.fixed_threshold


def _lower_thresholds(table: Table, rows: Sequence[Row]) -> tuple[str, str]:
    """Thresholds below those of rows with one, at the lowest learning rate of those rows."""
    limit, row = min(map(_limit, rows)), min(rows, key=lambda row: (row.settings.lr or 0.0, _limit(row)))
    lower = {THRESHOLD: f"{limit / 100:.2g},{limit / 10:.2g}"}
    found = command(table, [row], _with(table, row, lower), seeds(table.rows, 1))
    return f"thresholds below {format_override_value(limit)}, the lowest tried", found


def _lower_rates(table: Table, rows: Sequence[Row]) -> tuple[str, str] | None:
    """Learning rates below those of rows, with the lowest threshold of those rows with the lowest rate."""
    if not rows:
        return None
    row = min(rows, key=lambda row: (row.settings.lr, _limit(row)))
    rate = row.settings.lr or 0.0
    found = command(table, [row], _with(table, row, {RATE: f"{rate / 100:.2g},{rate / 10:.2g}"}), seeds(table.rows, 1))
    return f"learning rates below {format_override_value(rate)}, the lowest tried", found


def _with(table: Table, row: Row, values: dict[str, str]) -> list[str]:
    """A row's overrides, and after them these values of keys."""
    others = [override for override in table.overrides([row]) if override.partition("=")[0] not in values]
    return [*others, *(f"{key}={value}" for key, value in values.items())]


def _clipping(table: Table, row: Row) -> str:
    """The command that repeats a row with clip=norm at its default threshold."""
    shared = [line for line in table.fixed if not line.lstrip("+").startswith("clip")]
    others = [override for override in table.overrides([row]) if not override.startswith("clip")]
    return command(replace(table, fixed=shared), [row], [*others, "clip=norm"], seeds(table.rows, 1))
