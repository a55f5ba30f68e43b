"""The end-of-run summary."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runner.printable import format_loss, printable
from runner.report.verdict import WINDOW, Findings
from runner.runs.run import Interrupted, Run, RunStopped, resume_command
from runner.sweeps.results import relative_path, shell_path

log = logging.getLogger(__name__)


def show(
    run: Run,
    stopped: RunStopped | None,
    *,
    losses: tuple[float, float] | None = None,
    best: tuple[float, int] | None = None,
    clipped: float = 0.0,
    findings: Findings | None = None,
    norms: Sequence[float] = (),
    dropped: int = 0,
    divergence: str | None = None,
    sample: str | None = None,
) -> None:
    """Logs the summary of a run, which the log prints.

    stopped: the exception that ended it early. losses: the first and the last logged training loss. best: the best
    validation loss and its step. clipped: the share of logged steps in which anything was clipped. findings: what the
    logs show on clipping and on spikes. norms: the logged norms before clipping. dropped: the number of steps that were
    skipped. divergence: what is peculiar about the rule by which the run counts as diverged. sample: text that the
    model generated.
    """
    status, findings = run.status, findings or Findings()
    state = "finished" if stopped is None else f"{stopped.state}: {printable(str(stopped), keep='')}"
    rows = {"state": f"{state} (step {status['step']} of {status['steps']})"}
    if losses is not None:
        validation = "" if best is None else f", best validation {format_loss(best[0])} at step {best[1]}"
        rows["loss"] = f"first {format_loss(losses[0])}, last {format_loss(losses[1])}{validation}"
        rows["clipped"] = (findings.clipped or f"{100 * clipped:.1f} % of the logged steps") + findings.cost
        rows |= {"limit": findings.limit} if findings.limit else {}
        rows["norm before"] = _quantiles(np.asarray(norms, np.float64))
        if findings.scores:
            shares = [f"{100 * score:.2g} % ({tag})" for tag, score in findings.scores.items()]
            rows["spikes"] = f"{' and '.join(shares)} of the logged values after the first {WINDOW}"
    if dropped:
        every = ": the weights never changed" if dropped == status["step"] else ""
        rows["dropped"] = f"{dropped} of {status['step']} steps{every}"
    if divergence:
        rows["divergence"] = divergence
    if sample:
        rows["sample"] = printable(sample.strip()).replace("\n", "\n" + " " * 13)
    folder = shell_path(run.folder)
    rows |= {"run": folder, "TensorBoard": f"tensorboard --logdir {folder}"}
    if isinstance(stopped, Interrupted):
        rows["to resume"] = resume_command(Path(relative_path(run.folder)))
    log.info("\n%s", "\n".join(f"{name:<13}{text}" for name, text in rows.items()))


def _quantiles(norms: NDArray[np.float64]) -> str:
    """The median and the 95th percentile of norms, of which nan does not count."""
    if not np.isfinite(norms).any():
        return "never finite"
    with np.errstate(invalid="ignore"):  # between two infinite norms
        median, high = np.nanquantile(norms, [0.5, 0.95]).tolist()
    return f"median {median:.4g}, 95th percentile {high:.4g}"
