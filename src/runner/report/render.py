"""The table, plots and conclusion of a report as Markdown, as one HTML page, and as text for the terminal."""

import base64
import html
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from runner.printable import count_of, format_mean, printable
from runner.report.aggregate import Table
from runner.report.comparison import standing
from runner.report.conclusion import CODE, difference
from runner.report.override_text import format_override_value
from runner.report.rows import FAILED, UNFINISHED, Row
from runner.report.verdict import of_run
from runner.sweeps.results import shell_path


def heading(table: Table) -> str:
    """The numbers of configurations and runs, and how the runs ended."""
    counts = Counter(trial.result.state for trial in table.trials)
    states = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    duplicates = f"; not counted: {count_of(table.duplicates, 'duplicate')}" if table.duplicates else ""
    configurations, runs = count_of(len(table.rows), "configuration"), count_of(len(table.trials), "run")
    return f"{configurations}, {runs}: {states}{duplicates}."


def cells(table: Table) -> list[list[str]]:
    """The table's header and rows, without columns that would be empty."""
    rows = table.rows
    extra = {
        "diverged": [str(row.counts["diverged"] or "") for row in rows],
        "failed": [str(row.count(FAILED) or "") for row in rows],
        "unfinished": [str(row.count(UNFINISHED) or "") for row in rows],
        "pruned": [str(row.counts["pruned"] or "") for row in rows],
    }
    kept = {name: column for name, column in extra.items() if any(column)}
    keys = [re.sub(r"\.name$", "", key) for key in table.columns]
    lines = [[*keys, "objective", "finished", *kept, "difference to best", "clipped", "median norm"]]
    differences = _differences(table)
    for number, row in enumerate(rows):
        values = [_cell(row.values.get(key)) for key in table.columns]
        clipped = "" if row.clipped is None else f"{100 * row.clipped:.1f} %"
        norm = "" if row.norm is None else f"{row.norm:.3g}"
        lines.append([*values, objective(row), f"{len(row.objectives)} of {len(row.trials)}",
                      *(column[number] for column in kept.values()), differences[number], clipped, norm])  # fmt: skip
    return lines


def _differences(table: Table) -> list[str]:
    """The cell of each row on its difference to the best one, with the number of seeds where it is not that of both."""
    found = standing(table)
    if found is None:
        return [""] * len(table.rows)
    texts = {id(found.best): "best" if found.has_winner(table) else "lowest mean"}
    for each in found.comparisons:
        seeds = {len(found.best.objectives), len(each.row.objectives)}
        over = "" if seeds == {each.seeds} else f", {count_of(each.seeds, 'common seed')}"
        texts[id(each.row)] = f"{'equal' if each.equal else difference(each)}{over}".removeprefix(", ")
    return [texts.get(id(row), "") for row in table.rows]


def winner(table: Table) -> Row | None:
    """The row that is highlighted: the best one, if it is certain to be the best."""
    found = standing(table)
    return found.best if found is not None and found.has_winner(table) else None


def _cell(value: Any) -> str:
    return "-" if value is None else printable(format_override_value(value), keep="")


def objective(row: Row) -> str:
    """The mean objective ± its standard deviation over seeds, where more than one finished."""
    if not row.objectives:
        return "-"
    return format_mean(row.mean, row.standard_deviation)


LEGEND = (
    "Objective: the best validation loss of a run, mean ± standard deviation over the seeds that finished; lower is "
    "better. Configurations that diverged at a seed are ranked below those that did not, whatever their mean. "
    "Difference to best: the mean over the seeds that both finished, paired by seed; in parentheses, from three seeds "
    "on, its t interval, 95 % for all intervals together (Bonferroni); equal: the same objective at each of these "
    "seeds. A winner is claimed if every other configuration without a diverged run, except those equal to it, has an "
    "interval, and all of them are above 0. "
    "Clipped, median norm: over the logged steps."
)


CLIPPING = "What clipping did in the best run of each configuration"


def text(table: Table, sentences: Sequence[str]) -> str:
    """The report as text for a terminal. sentences: those of the conclusion."""
    head, *rows = cells(table)
    closing = CODE.sub(lambda code: code[2].strip(), "\n".join(sentences))
    found = [f"Clipping with {line}" for line in clipping(table)[:1]]
    return "\n".join([heading(table), "", _tabulate(head, rows, "plain"), "", *found, closing])


def _tabulate(head: Sequence[str], rows: Sequence[Sequence[str]], style: str) -> str:
    """A table of text, which tabulate would otherwise read as numbers and format anew."""
    lines = tabulate(rows, head, tablefmt=style, disable_numparse=True, colalign=["left"] * len(head)).splitlines()
    return "\n".join(line.rstrip() for line in lines)


def failures(table: Table) -> list[str]:
    """A line for every run that failed, was rejected or was killed: its folder, state and reason."""
    failed = [trial.result for trial in table.trials if trial.result.state in FAILED]
    return [f"{shell_path(result.folder)}: {result.state}: {result.reason}" for result in failed]


def clipping(table: Table) -> list[str]:
    """A line for each configuration that clips: what clipping did in its best run."""
    lines = []
    for row in table.rows:
        folder = row.best_trial.result.folder
        if (verdict := of_run(folder)) is not None:
            lines.append(f"{table.name(row) or 'the configuration'} ({shell_path(folder)}): {verdict}")
    return lines


def markdown(table: Table, figures: dict[str, Path], title: str, sentences: Sequence[str]) -> str:
    """The content of report.md. figures: PNGs in the same folder, by caption."""
    head, *rows = [[cell.replace("|", "\\|") for cell in line] for line in cells(table)]
    marked = winner(table)
    for row, values in zip(table.rows, rows, strict=True):
        if row is marked:
            values[:] = [f"**{value}**" if value else value for value in values]
    commands = ["```bash", *table.commands, "```", ""] if table.commands else []
    lines = [f"# {title}", "", *commands, heading(table), "", _tabulate(head, rows, "github")]
    lines += ["", LEGEND, ""]
    for caption, path in figures.items():
        lines += [f"![{caption}]({path.name})", "", f"*{caption}.*", ""]
    if found := clipping(table):
        lines += [f"## {CLIPPING}", "", *(f"- {line}" for line in found), ""]
    if failed := failures(table):
        lines += ["## Failed runs", "", *(f"- {line}" for line in failed), ""]
    return "\n".join([*lines, "## Conclusion", "", "\n\n".join(sentences), ""])


STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;font-size:14px}td,th{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:left}
tr.best{font-weight:bold;background:#eef6ff}figure{margin:1.5rem 0}img{max-width:100%}
figcaption{color:#555;font-size:14px}code{background:#f3f3f3;padding:0 .2rem}.answer{border-left:4px solid #0072B2;
padding-left:1rem}"""


def page(table: Table, figures: dict[str, Path], title: str, sentences: Sequence[str]) -> str:
    """The content of report.html: one file with the figures embedded, which loads nothing from the network."""
    head, *rows = cells(table)
    body = [f"<h1>{html.escape(title)}</h1>"]
    body += [f"<pre>{html.escape(command)}</pre>" for command in table.commands]
    body += [f"<p>{html.escape(heading(table))}</p>", "<table>", _row(head, "th")]
    marked = winner(table)
    body += [_row(values, "td", ' class="best"' if row is marked else "")
             for row, values in zip(table.rows, rows, strict=True)]  # fmt: skip
    body += ["</table>", f"<p>{html.escape(LEGEND)}</p>"]
    for caption, path in figures.items():
        data = base64.b64encode(path.read_bytes()).decode()
        body.append(f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
                    f"<figcaption>{html.escape(caption)}.</figcaption></figure>")  # fmt: skip
    if found := clipping(table):
        items = "".join(f"<li>{html.escape(line)}</li>" for line in found)
        body.append(f"<h2>{CLIPPING}</h2><ul>{items}</ul>")
    if failed := failures(table):
        items = "".join(f"<li>{html.escape(line)}</li>" for line in failed)
        body.append(f"<h2>Failed runs</h2><ul>{items}</ul>")
    body.append("<h2>Conclusion</h2>")
    for sentence in sentences:
        closing = CODE.sub(lambda code: f"<code>{code[2].strip()}</code>", html.escape(sentence, quote=False))
        body.append(f'<p class="answer">{closing}</p>')
    return (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
            f"<style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n")  # fmt: skip


def _row(values: Sequence[str], cell: str, attributes: str = "") -> str:
    return f"<tr{attributes}>" + "".join(f"<{cell}>{html.escape(value)}</{cell}>" for value in values) + "</tr>"
