"""What a person wants to know of a run when it is over."""

import logging
import math
from array import array
from dataclasses import dataclass, field
from pathlib import Path

import torch

from trainer.run import Diverged, Interrupted, Run

log = logging.getLogger(__name__)


@dataclass
class History:
    """The few numbers of a run that its summary needs, gathered at the logged steps."""

    first: float = math.nan
    last: float = math.nan
    best: float | None = None  # the objective: the best validation loss
    best_step: int = 0
    clipped: int = 0
    dropped: int = 0
    before: "array[float]" = field(default_factory=lambda: array("d"))

    def note(self, loss: float, before: float, clipped: bool) -> None:
        """Takes in a logged step."""
        self.first = loss if math.isnan(self.first) else self.first
        self.last = loss
        self.clipped += clipped
        self.before.append(before)

    def improves(self, step: int, loss: float) -> bool:
        """Takes in an evaluation; whether it is the best so far."""
        if not math.isfinite(loss) or (self.best is not None and loss >= self.best):
            return False
        self.best, self.best_step = loss, step
        return True


def show(run: Run, history: History, end: Diverged | Interrupted | None, sample: str | None) -> None:
    """Prints and logs the summary; `end` is what ended the run early."""
    status, logged = run.status, len(history.before)
    state = "finished" if end is None else f"{end.state}: {end}"
    rows = {"state": f"{state} (step {status['step']} of {status['steps']})"}
    if logged:
        norms = torch.tensor(history.before, dtype=torch.float64)
        median, high = norms.nanquantile(torch.tensor([0.5, 0.95], dtype=torch.float64)).tolist()
        best = "" if history.best is None else f", best validation {history.best:.4f} at step {history.best_step}"
        rows["loss"] = f"first {history.first:.4f}, last {history.last:.4f}{best}"
        rows["clipped"] = f"{100 * history.clipped / logged:.1f} % of the steps"
        rows["norm before"] = f"median {median:.4g}, 95th percentile {high:.4g}"
    if history.dropped:
        rows["dropped"] = f"{history.dropped} steps"
    if sample:
        rows["sample"] = sample.strip().replace("\n", "\n" + " " * 13)
    folder = _shown(run.folder)
    rows |= {"run": str(folder), "TensorBoard": f"tensorboard --logdir {folder}"}
    log.info("\n%s", "\n".join(f"{name:<13}{text}" for name, text in rows.items()))


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
