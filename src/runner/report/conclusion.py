"""The closing paragraph: what to take, how sure that is, what to try next."""

import math
import re
import shlex
from collections.abc import Sequence

from runner.report.aggregate import FAILED, OPEN, POLICY, SEED, THRESHOLD, Row, Table, override_value

CODE = re.compile(r"(`+)(.+?)(?<!`)\1(?!`)")  # what `_code` writes: the backticks and the text


def conclusion(table: Table, resume: str) -> list[str]:
    """Some sentences each on what to take, how sure it is, and what to try next. resume: what to type for the rest."""
    clean = table.clean
    if not clean:
        parts = _nothing(table)
    elif len(clean) > 1 and clean[0].tied:
        parts = _tie(table, clean)
    else:
        parts = _winner(table, clean)
    return [*parts, *_unfinished(table, resume)]


def _nothing(table: Table) -> list[str]:
    """No configuration finished without diverging somewhere."""
    states = sum((row.counts for row in table.rows[1:]), table.rows[0].counts)
    ran = states.total() - sum(states[state] for state in OPEN)
    some = [row for row in table.rows if row.rank == 1]
    if some:
        best = max(some, key=lambda row: len(row.objectives) / len(row.trials))
        return [
            f"Take none of these as it is: every configuration that finished diverged at another seed. The steadiest, "
            f"{_code(table.name(best))}, finished at {len(best.objectives)} of {_seeds(len(best.trials))}.",
            _calmer(table),
        ]
    if states["diverged"] and states["diverged"] == ran:
        return [f"Take none of these: everything diverged, all {_runs(ran)}.", _calmer(table)]
    if states["diverged"]:
        return [f"Take none of these: nothing finished; {_runs(states['diverged'])} diverged.", _calmer(table)]
    return ["There is nothing to take yet: no run has finished."]


def _calmer(table: Table) -> str:
    tried = sorted({row.threshold for row in table.rows if row.threshold is not None})
    lower = (
        f"thresholds below {override_value(tried[0])}, the smallest tried (such as {tried[0] / 10:.2g})"
        if tried
        else "clipping"
    )
    return f"Next, try {lower}, and a lower `optimizer.lr`."


def _tie(table: Table, clean: Sequence[Row]) -> list[str]:
    best, tied = clean[0], [row for row in clean if row.tied]
    names = [_code(table.name(row)) for row in tied]
    listed = f"{', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"
    parts = [
        f"Take any of {listed}: they tie within one standard error. "
        f"The lowest mean is that of {names[0]}, {_mean(best)}."
    ]
    gap, spread = tied[1].mean - best.mean, (best.deviation or 0.0) + (tied[1].deviation or 0.0)
    if gap > 0 and spread > 0:
        seeds = math.ceil((spread / gap) ** 2) + 1
        more = f"about {seeds:,} seeds each would" if seeds <= 100 else f"not even 100 seeds ({seeds:,} or so) would"
        parts.append(f"How sure: the first two are {gap:.2g} apart, and their seeds {best.deviation:.2g} and "
                     f"{tied[1].deviation:.2g}; {more} tell them apart.")  # fmt: skip
    else:
        parts.append("How sure: their means are the same.")
    if any(row.policy == "none" for row in tied):
        parts.append("`clip=none` is among them: here clipping neither helps nor harms.")
    rest = [row for row in clean if not row.tied]
    if rest:
        parts.append(f"Behind them comes {_code(table.name(rest[0]))} with {_mean(rest[0])}.")
    parts.append(_next(table, best))
    return parts


def _winner(table: Table, clean: Sequence[Row]) -> list[str]:
    best = clean[0]
    name = _code(table.name(best)) if table.columns else "this one configuration"
    parts = [f"Take {name}: {_mean(best)}."]
    if best.policy == "none" and table.rows[-1].policy != "none":
        parts.append("Clipping did not help here.")
    if len(clean) > 1:
        second = clean[1]
        gap = second.mean - best.mean
        behind = f"the next, {_code(table.name(second))}, is {gap:.2g} behind ({_mean(second)})"
        if best.error is None or second.error is None:
            parts.append(f"How sure: not at all yet, since {_lonely(best, second)}; {behind}.")
        else:
            errors = gap / math.hypot(best.error, second.error) if best.error or second.error else math.inf
            sure = "clear" if errors >= 4 else "likely, not certain" if errors >= 2 else "weak evidence"
            distance = (
                f"{errors:.1f} standard errors of the difference" if math.isfinite(errors) else "no spread at all"
            )
            parts.append(f"How sure: {sure}; {behind}, {distance}, over {_seeds(len(best.objectives))}.")
    else:
        others = len(table.rows) - 1
        unsure = "; and one seed has no spread" if best.error is None else ""
        why = "nothing else finished at every seed" if others else "there is nothing to compare it with"
        parts.append(f"How sure: {why}{unsure}.")
    parts.append(_next(table, best))
    return parts


def _lonely(best: Row, second: Row) -> str:
    if best.error is None and second.error is None:
        return "one seed has no spread"
    return "one of the first two finished at one seed alone"


def _next(table: Table, best: Row) -> str:
    """More seeds where there are few, then thresholds around the best, or beyond the edge of those tried."""
    words = []
    wanted = table.overrides(best)
    alike = [row for row in table.rows if row.policy == best.policy and _alike(table, row, best)]
    tried = sorted({row.values[THRESHOLD] for row in alike if row.values.get(THRESHOLD) is not None})
    now = best.values.get(THRESHOLD)
    if now is not None and THRESHOLD in table.columns and len(tried) > 1:
        place = tried.index(now)
        lower = tried[place - 1] if place else now / 10
        upper = tried[place + 1] if place + 1 < len(tried) else now * 10
        steps = f"{math.sqrt(lower * now):.2g},{override_value(now)},{math.sqrt(upper * now):.2g}"
        if place == 0:
            words.append(f"{override_value(now)} is the smallest threshold tried, so the best may lie below it")
        elif place + 1 == len(tried):
            words.append(f"{override_value(now)} is the largest threshold tried, so the best may lie above it")
        beyond = [row.values[THRESHOLD] for row in alike if row.counts["diverged"] and row.values[THRESHOLD] > now]
        if beyond:
            words.append(f"at {override_value(min(beyond))} `clip={best.policy}` diverged")
        wanted[THRESHOLD] = f"{THRESHOLD}={steps}"
    seeds = len(best.objectives)
    more = ",".join(str(seed) for seed in range(1, max(2 * seeds, 3) + 1))
    reason = f" ({'; '.join(words)})" if words else ""
    command = ["python", "train.py", "-m", *table.fixed, *wanted.values(), f"{SEED}={more}"]
    rest = "" if table.commands else ", with whatever else these runs were given"
    return f"Next: {_code(shlex.join(command))}{rest}{reason}."


def _alike(table: Table, row: Row, best: Row) -> bool:
    """Whether two rows differ by their threshold alone."""
    return all(row.values.get(key) == best.values.get(key) for key in table.columns if key not in (THRESHOLD, POLICY))


def _unfinished(table: Table, resume: str) -> list[str]:
    trials = table.trials
    failed = sum(trial.result.state in FAILED for trial in trials)
    waiting = sum(trial.result.state in OPEN for trial in trials)
    if not failed and not waiting:
        return []
    parts = [f"{count} {word}" for count, word in ((failed, "failed"), (waiting, "not ended")) if count]
    return [
        f"This is not the whole sweep: of {len(trials)} runs {' and '.join(parts)}. {_code(resume)} runs what is left."
    ]


def _mean(row: Row) -> str:
    spread = "" if row.deviation is None else f" ± {row.deviation:.4f}"
    return f"{row.mean:.4f}{spread} over {_seeds(len(row.objectives))}"


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def _runs(count: int) -> str:
    return f"{count} run{'' if count == 1 else 's'}"


def _code(text: str) -> str:
    """Code as Markdown writes it: between more backticks than the text has in a row."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {text} {fence}" if longest else f"`{text}`"
