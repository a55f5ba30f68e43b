"""The text of a post-mortem, in Markdown."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from runner.printable import format_loss
from runner.report.post_mortem import Cause, Evidence, Step

FILE = "post_mortem.md"
SHOWN = 8  # steps in the table
LEADING = 3  # parameters that are named
HEAD = ("step", "loss", "norm before", "norm after", "limit", "lr", "update", "weights")


@dataclass(frozen=True)
class Advice:
    """A command, and what is known of it, such as its loss when it was tried."""

    command: str
    note: str


def markdown(
    reason: str, evidence: Evidence, cause: Cause, advice: Sequence[Advice], remarks: Sequence[str] = ()
) -> str:
    """The post-mortem of a run.

    reason: that of the divergence. advice: the most likely command first. remarks: paragraphs that follow it.
    """
    lines = ["# Post-mortem", "", f"The run diverged: {reason}.", "", f"Cause: {cause.name}.", cause.evidence, ""]
    if advice:
        lines += ["What to run, the most likely to work first:", ""]
        for number, each in enumerate(advice, start=1):
            lines += [f"{number}. {each.note}", "", f"       {each.command}", ""]
    for remark in remarks:
        lines += [remark, ""]
    if evidence.steps:
        origin = "replayed" if evidence.replayed else "as logged"
        lines += [f"The last steps, {origin}:", "", *_table(_shown(evidence)), ""]
    return "\n".join([*lines, *_leading(evidence), *_nonfinite(evidence)]).rstrip() + "\n"


def _shown(evidence: Evidence) -> list[Step | None]:
    """The last steps; of a longer rise its beginning and its end, with None between them."""
    steps, start = evidence.steps, max(evidence.onset - 2, 0)
    if len(steps) - start <= SHOWN:
        return list(steps[-SHOWN:])
    return [*steps[start : start + SHOWN - 2], None, *steps[-2:]]


def _table(steps: Sequence[Step | None]) -> list[str]:
    rows: list[tuple[str, ...]] = [HEAD]
    for step in steps:
        if step is None:
            rows.append(("…",) * len(HEAD))
            continue
        numbers = (step.before, step.after, step.limit, step.lr, step.update, step.weight)
        cells = ("-" if number is None or math.isnan(number) else f"{number:.3g}" for number in numbers)
        rows.append((str(step.number), format_loss(step.loss), *cells))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = [f"| {' | '.join(f'{cell:>{width}}' for cell, width in zip(row, widths, strict=True))} |" for row in rows]
    return [lines[0], f"|{'|'.join('-' * (width + 1) + ':' for width in widths)}|", *lines[1:]]


def _leading(evidence: Evidence) -> list[str]:
    """A sentence on the parameters with the largest gradients at the step of the rise with the largest norm."""
    known = [step for step in (evidence.rise if evidence.steps else []) if math.isfinite(step.before)
             and step.number in evidence.parameters]  # fmt: skip
    if not known:
        return []
    step = max(known, key=lambda step: step.before)
    norms = evidence.parameters[step.number]
    scale = max(norms.values())
    if not 0 < scale < math.inf:
        return []
    total = math.fsum((norm / scale) ** 2 for norm in norms.values())
    leading = sorted(norms.items(), key=lambda item: -item[1])[:LEADING]
    shares = [f"{name} {norm:.3g} ({100 * (norm / scale) ** 2 / total:.0f} % of the square)"
              for name, norm in leading if norm > 0]  # fmt: skip
    return [f"The largest gradients of step {step.number}: {', '.join(shares)}.", ""]


def _nonfinite(evidence: Evidence) -> list[str]:
    names = evidence.nonfinite
    more = f" and {len(names) - LEADING} more" if len(names) > LEADING else ""
    return [f"The first non-finite gradients: {', '.join(names[:LEADING])}{more}.", ""] if names else []
