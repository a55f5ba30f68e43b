"""The conclusion of a report: which configuration to take, how certain that is, and what to run next."""

import re
from collections.abc import Sequence

from runner.printable import count_of, format_mean
from runner.report import following
from runner.report.aggregate import Table
from runner.report.comparison import Comparison, Standing, standing
from runner.report.rows import FAILED, UNFINISHED, Row

CODE = re.compile(r"(`+)(.+?)(?<!`)\1(?!`)")  # a Markdown code span, as `_code` writes it: backticks and text
SEEDS = 5  # a sweep that adds seeds has at least so many


def conclusion(table: Table, resume: str) -> list[str]:
    """At most five sentences, in Markdown, whose numbers stand in the table; a command ends without a period.

    resume: the command that runs the unfinished jobs of a sweep, or resumes an unfinished run.
    """
    found = standing(table)
    if len(table.data) > 1:
        sentences = [
            f"No conclusion: the runs have different data ({', '.join(table.data)}), whose losses cannot be compared."
        ]
    elif found is None:
        sentences = _none_stable(table)
    elif len(table.rows) == 1:
        sentences = _single(table, found)
    elif len(table.rows) == 1 + len(found.equal):
        sentences = [*_no_difference(table, found), *_edges(table, found)]
    elif found.has_winner(table):
        sentences = [*_winner(table, found), *_edges(table, found)]
    else:
        sentences = [*_no_winner(table, found), *_edges(table, found)]
    return [*sentences, *_incomplete(table, resume)]


def difference(comparison: Comparison) -> str:
    """A difference with its sign and, in parentheses, the ends of its interval; empty without a common seed."""
    if comparison.difference is None:
        return ""
    values = [comparison.difference, *(end for end in (comparison.low, comparison.high) if end is not None)]
    first, *ends = (_number(value, values) for value in values)
    sign = "" if first.startswith("-") else "+"
    return f"{sign}{first} ({ends[0]} to {ends[1]})" if ends else f"{sign}{first}"


def _number(value: float, values: Sequence[float]) -> str:
    """A difference with so many decimals that the width of its interval has two digits, and no end looks like 0."""
    width, nonzero = max(values) - min(values), [abs(each) for each in values if each]
    scales = [abs(width), *(each * 10 for each in nonzero)] if width else [each / 100 for each in nonzero]
    decimals = max((1 - _exponent(scale) for scale in scales), default=4)
    if decimals > 6 or max(nonzero, default=0.0) >= 1e5:
        return f"{value:.3e}" if value else "0"
    return f"{value:.{max(decimals, 0)}f}"


def _exponent(value: float) -> int:
    """The power of ten of a positive number's first digit."""
    return int(f"{value:e}".partition("e")[2])


def _none_stable(table: Table) -> list[str]:
    """The sentences for a sweep in which no configuration finished at every seed without divergence."""
    states = sum((row.counts for row in table.rows[1:]), table.rows[0].counts)
    ended = states.total() - sum(states[state] for state in UNFINISHED)
    partly_diverged = [row for row in table.rows if row.rank == 1]
    if partly_diverged:
        best = max(partly_diverged, key=lambda row: len(row.objectives) / len(row.trials))
        return [
            "Take none of these as it is: every configuration that finished at one seed diverged at another.",
            f"The most stable, {_code(table.name(best))}, finished at {len(best.objectives)} of "
            f"{_seeds(len(best.trials))}.",
            *_lower(table),
        ]
    if states["diverged"] and states["diverged"] == ended:
        return [f"Take none of these: {_all_of(ended, states.total())} diverged.", *_lower(table)]
    result = "no finished run has a finite validation loss" if states["finished"] else "no run has finished"
    if states["diverged"]:
        return [f"Take none of these: {result}; {_runs(states['diverged'])} diverged.", *_lower(table)]
    yet = "" if ended == states.total() else " yet"
    return [f"Nothing can be recommended{yet}: {result}."]


def _all_of(ended: int, total: int) -> str:
    """All runs that ended, in words."""
    if ended > 1:
        return f"all {_runs(ended)}"
    return "the only run" if total == 1 else "the only run that ended"


def _lower(table: Table) -> list[str]:
    """A sentence with the command to try after divergence: lower thresholds or learning rates, or clipping."""
    if (found := following.lower(table)) is None:
        return []
    tried, command = found
    return [f"Next{_rest(table)}, {tried}: {_code(command)}"]


def _single(table: Table, found: Standing) -> list[str]:
    """The sentences for a sweep of one configuration."""
    sentences = [f"There is one configuration, {_mean(found.best)}: nothing to compare it with."]
    return sentences if found.repeated else [*sentences, _more_seeds(table, [found.best])]


def _no_difference(table: Table, found: Standing) -> list[str]:
    """The sentence for configurations that are all equal."""
    names = f"{_code(table.name(found.best))} and {_names(table, found.equal)}"
    return [f"No difference: {names} gave the same result at every common seed, {_mean(found.best)}."]


def _winner(table: Table, found: Standing) -> list[str]:
    """The sentences for a configuration that is better than all others, except those equal to it."""
    sentences = [f"Take {_code(table.name(found.best))}: {_mean(found.best)}{_equal(table, found)}."]
    higher = [each for each in found.comparisons if not each.equal]
    if not higher:
        return [*sentences, "No other configuration finished without a diverged run."]
    closest = _closest(higher)
    named, count = _code(table.name(closest.row)), len(found.comparisons)
    subject = f"{named} is" if count == 1 else f"All others that never diverged are higher; the closest, {named}, is"
    corrected = f" and corrected for {count} comparisons" if count > 1 else ""
    return [*sentences, f"{subject} higher by {difference(closest)}, a 95 % interval, paired by seed{corrected}."]


def _no_winner(table: Table, found: Standing) -> list[str]:
    """The sentences for a best configuration that is not certain to be the best."""
    best, undecided = found.best, found.undecided
    lowest = f"{_code(table.name(best))} has the lowest mean{_among(table, best)}, {_mean(best)}{_equal(table, found)}"
    if not found.repeated:
        rows = [best, *(each.row for each in found.comparisons), *found.pending]
        return [f"No winner, since fewer than three seeds finished: {lowest}.", _more_seeds(table, rows)]
    sentences = [f"No winner: {lowest}."]
    if undecided:
        closest = _closest(undecided)
        named = _names(table, [closest.row, *(each.row for each in undecided if each is not closest)])
        which = f" of {_code(table.name(closest.row))}" if len(undecided) > 1 else ""
        sentences = [
            f"No winner: {lowest}, and {named} cannot be told apart from it: the difference{which} is "
            f"{difference(closest)}, a 95 % interval, paired by seed."
        ]
    if found.unpaired:
        named = _names(table, found.unpaired)
        sentences.append(f"{named} cannot be compared with it: they have fewer than three seeds in common.")
    return [*sentences, _more_seeds(table, [best, *(each.row for each in undecided), *found.unpaired])]


def _equal(table: Table, found: Standing) -> str:
    """In parentheses, which configurations are equal to the best one; empty if none is."""
    return f" ({_names(table, found.equal)} gave the same result at every common seed)" if found.equal else ""


def _closest(comparisons: Sequence[Comparison]) -> Comparison:
    return min(comparisons, key=lambda each: each.difference or 0.0)


def _among(table: Table, best: Row) -> str:
    """Among which rows the best has the lowest mean, if it is not the lowest of the table."""
    lower = [row for row in table.rows if row.objectives and row.mean < best.mean]
    if not lower:
        return ""
    return " of those without a diverged run" if all(row.rank for row in lower) else " over the seeds in common"


def _names(table: Table, rows: Sequence[Row]) -> str:
    """The name of the first row, and the number of the others."""
    more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
    return f"{_code(table.name(rows[0]))}{more}"


def _more_seeds(table: Table, rows: Sequence[Row]) -> str:
    """The sentence with the commands that add seeds to rows, of which the first is the best."""
    count = max(SEEDS, 2 * len(rows[0].by_seed))
    commands = [_code(command) for command in following.repeated(table, rows, count)]
    several = ", in sweeps to report together" if len(commands) > 1 else ""
    return f"More seeds{_rest(table)}{several}: {' and '.join(commands)}"


def _edges(table: Table, found: Standing) -> list[str]:
    """The sentence on values of the best row at the edge of those tried, or the command with finer thresholds."""
    seeds = max(len(found.best.by_seed), 3)
    if edges := following.edges(table, found.best, found.equal):
        listed = " and ".join(f"{_code(f'{each.key}={each.value}')} is the {_side(each)} tried" for each in edges)
        command = following.extended(table, found.best, edges, seeds)
        return [f"The best value is at the edge of the grid: {listed}; to extend it{_rest(table)}: {_code(command)}"]
    finer = following.between(table, found.best, seeds) if found.has_winner(table) else None
    return [f"Next{_rest(table)}, thresholds between those tried: {_code(finer)}"] if finer else []


def _side(edge: following.Edge) -> str:
    return "highest" if edge.highest else "lowest"


def _rest(table: Table) -> str:
    """What a command leaves out where not all overrides of the runs are known."""
    return "" if table.complete else ", with the other overrides of these runs"


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
