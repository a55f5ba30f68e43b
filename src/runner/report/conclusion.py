"""The closing paragraph of a report: which configuration to take, how certain that is, and what to try next."""

import math
import re
import shlex
from collections.abc import Sequence

from runner.printable import count_of, format_mean
from runner.report.aggregate import FAILED, POLICY, THRESHOLD, UNFINISHED, Row, Table, format_override_value
from runner.report.trials import SEED

DATA = "data.name"  # the key of the data set, where the project has a group `data`
CODE = re.compile(r"(`+)(.+?)(?<!`)\1(?!`)")  # a Markdown code span, as `_code` writes it: backticks and text


def conclusion(table: Table, resume: str) -> list[str]:
    """The sentences of the conclusion, in Markdown; a command ends without a period.

    resume: the command that runs the unfinished jobs of a sweep, or resumes an unfinished run.
    """
    stable = table.stable
    tasks = sorted({str(trial.values[DATA]) for row in table.rows for trial in row.trials if DATA in trial.values})
    if len(tasks) > 1:
        sentences = [
            f"No conclusion: the runs have different data ({', '.join(tasks)}), whose losses cannot be compared."
        ]
    elif not stable:
        sentences = _no_winner(table)
    elif len(stable) > 1 and stable[0].tied:
        sentences = _tie(table, stable)
    else:
        sentences = _winner(table, stable)
    return [*sentences, *_incomplete(table, resume)]


def _no_winner(table: Table) -> list[str]:
    """The sentences for a sweep in which no configuration finished at every seed without divergence."""
    states = sum((row.counts for row in table.rows[1:]), table.rows[0].counts)
    ended = states.total() - sum(states[state] for state in UNFINISHED)
    partly_diverged = [row for row in table.rows if row.rank == 1]
    if partly_diverged:
        best = max(partly_diverged, key=lambda row: len(row.objectives) / len(row.trials))
        return [
            f"Take none of these as it is: every configuration that finished at one seed diverged at another. The most "
            f"stable, {_code(table.name(best))}, finished at {len(best.objectives)} of {_seeds(len(best.trials))}.",
            _suggest_lower(table),
        ]
    if states["diverged"] and states["diverged"] == ended:
        return [f"Take none of these: all {_runs(ended)} diverged.", _suggest_lower(table)]
    if states["diverged"]:
        return [f"Take none of these: no run finished; {_runs(states['diverged'])} diverged.", _suggest_lower(table)]
    return ["Nothing can be recommended yet: no run has finished."]


def _suggest_lower(table: Table) -> str:
    """What to try after divergence: thresholds below all that were tried, and a lower learning rate."""
    tried = sorted({row.threshold for row in table.rows if row.threshold is not None})
    lower = (
        f"thresholds below {format_override_value(tried[0])}, the lowest tried (such as {tried[0] / 10:.2g})"
        if tried
        else "clipping"
    )
    return f"Next, try {lower}, and a lower learning rate."


def _tie(table: Table, stable: Sequence[Row]) -> list[str]:
    """The sentences for a best configuration that is tied with others. stable: the rows without a divergence."""
    best, tied = stable[0], [row for row in stable if row.tied]
    names = [_code(table.name(row)) for row in tied]
    listed = f"{', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"
    sentences = [
        f"Take any of {listed}: they tie within one standard error. "
        f"The lowest mean is that of {names[0]}, {_mean(best)}."
    ]
    gap, spread = tied[1].mean - best.mean, (best.standard_deviation or 0.0) + (tied[1].standard_deviation or 0.0)
    if gap > 0 and spread > 0:
        seeds = math.ceil((spread / gap) ** 2) + 1
        sentences.append(
            f"Certainty: the means of the first two differ by {gap:.2g}, and their standard deviations are "
            f"{best.standard_deviation:.2g} and {tied[1].standard_deviation:.2g}; about {seeds:,} seeds each would "
            "separate them."
        )
    else:
        sentences.append("Certainty: their means are equal.")
    if any(row.policy == "none" for row in tied):
        sentences.append("`clip=none` is among them: clipping neither helps nor harms here.")
    others = [row for row in stable if not row.tied]
    if others:
        sentences.append(f"The next best is {_code(table.name(others[0]))} with {_mean(others[0])}.")
    sentences.append(_next(table, best))
    return sentences


def _winner(table: Table, stable: Sequence[Row]) -> list[str]:
    """The sentences for a configuration that is better than all others, or the only one."""
    best = stable[0]
    name = _code(table.name(best)) if table.columns else "this one configuration"
    sentences = [f"Take {name}: {_mean(best)}."]
    if best.policy == "none" and table.rows[-1].policy != "none":
        sentences.append("Clipping did not help here.")
    if len(stable) > 1:
        sentences.append(_certainty(table, best, stable[1]))
    else:
        reason = "no other configuration finished at every seed" if len(table.rows) > 1 else "nothing to compare with"
        sentences.append(f"Certainty: {reason}{'; and one seed has no spread' if best.standard_error is None else ''}.")
    sentences.append(_next(table, best))
    return sentences


def _certainty(table: Table, best: Row, second: Row) -> str:
    """A sentence on the distance between the two best means, in standard errors of their difference."""
    gap = second.mean - best.mean
    behind = f"the next, {_code(table.name(second))}, is {gap:.2g} behind ({_mean(second)})"
    if best.standard_error is None or second.standard_error is None:
        return f"Certainty: none yet, since {_single_seed_note(best, second)}; {behind}."
    errors = (
        gap / math.hypot(best.standard_error, second.standard_error)
        if best.standard_error or second.standard_error
        else math.inf
    )
    verdict = "clear" if errors >= 4 else "likely, not certain" if errors >= 2 else "weak evidence"
    distance = f"{errors:.1f} standard errors of the difference" if math.isfinite(errors) else "no spread at all"
    return f"Certainty: {verdict}; {behind}, {distance}, over {_seeds(len(best.objectives))}."


def _single_seed_note(best: Row, second: Row) -> str:
    if best.standard_error is None and second.standard_error is None:
        return "one seed has no spread"
    return "one of the first two finished at only one seed"


def _next(table: Table, best: Row) -> str:
    """The sentence with the command of a follow-up sweep: more seeds, and thresholds around or beyond the best."""
    reasons = []
    overrides = table.overrides(best)
    same = [row for row in table.rows if row.policy == best.policy and _differ_in_threshold_only(table, row, best)]
    tried = sorted({row.values[THRESHOLD] for row in same if row.values.get(THRESHOLD) is not None})
    threshold = best.values.get(THRESHOLD)
    if threshold is not None and THRESHOLD in table.columns and len(tried) > 1:
        index = tried.index(threshold)
        lower = tried[index - 1] if index else threshold / 10
        upper = tried[index + 1] if index + 1 < len(tried) else threshold * 10
        if index == 0:
            reasons.append(f"{format_override_value(threshold)} is the lowest threshold tried; the best may be lower")
        elif index + 1 == len(tried):
            reasons.append(f"{format_override_value(threshold)} is the highest threshold tried; the best may be higher")
        diverged = [
            row.values[THRESHOLD] for row in same if row.counts["diverged"] and row.values[THRESHOLD] > threshold
        ]
        if diverged:
            reasons.append(f"at {format_override_value(min(diverged))} `clip={best.policy}` diverged")
        thresholds = (
            f"{math.sqrt(lower * threshold):.2g},{format_override_value(threshold)},{math.sqrt(upper * threshold):.2g}"
        )
        overrides[THRESHOLD] = f"{THRESHOLD}={thresholds}"
    seeds = ",".join(str(seed) for seed in range(1, max(2 * len(best.objectives), 3) + 1))
    command = ["python", "train.py", "-m", *table.fixed, *overrides.values(), f"{SEED}={seeds}"]
    rest = "" if table.commands else ", with the other overrides of these runs"
    reason = f" ({'; '.join(reasons)})" if reasons else ""
    return f"Next{rest}{reason}: {_code(shlex.join(command))}"


def _differ_in_threshold_only(table: Table, row: Row, best: Row) -> bool:
    return all(row.values.get(key) == best.values.get(key) for key in table.columns if key not in (THRESHOLD, POLICY))


def _incomplete(table: Table, resume: str) -> list[str]:
    """A sentence on the runs that failed or have not ended; none if all ended."""
    states = [trial.result.state for trial in table.trials]
    failed, unfinished = (sum(state in group for state in states) for group in (FAILED, UNFINISHED))
    if not failed and not unfinished:
        return []
    parts = [f"{count} {word}" for count, word in ((failed, "failed"), (unfinished, "did not end")) if count]
    return [f"Of {_runs(len(states))}, {' and '.join(parts)}: {_code(resume)}"]


def _mean(row: Row) -> str:
    """The mean objective of a row, its standard deviation, and the number of seeds."""
    return f"{format_mean(row.mean, row.standard_deviation)} over {_seeds(len(row.objectives))}"


def _seeds(count: int) -> str:
    return count_of(count, "seed")


def _runs(count: int) -> str:
    return count_of(count, "run")


def _code(text: str) -> str:
    """A Markdown code span, between more backticks than the text has in a row."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {text} {fence}" if longest else f"`{text}`"
