"""What a person wants to know of a run when it is over."""

import logging
import math
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from runner.runs.run import Ended, Interrupted, Run

log = logging.getLogger(__name__)

MOST = 1 << 14  # norms kept for the quantiles


@dataclass
class History:
    """The few numbers of a run that its summary needs, gathered at the logged steps.

    before: the norms before clipping, of every logged step, and in a long run of every `stride`-th one, so
    that the memory stays the same.
    """

    first: float = math.nan
    last: float = math.nan
    best: float | None = None  # the objective: the best validation loss
    best_step: int = 0
    clipped: int = 0
    dropped: int = 0
    logged: int = 0
    stride: int = 1
    before: "array[float]" = field(default_factory=lambda: array("d"))

    def note(self, loss: float, before: float, clipped: bool) -> None:
        """Takes in a logged step."""
        self.first = loss if math.isnan(self.first) else self.first
        self.last = loss
        self.clipped += clipped
        if self.logged % self.stride == 0:
            self.before.append(before)
        if len(self.before) == MOST:
            self.before, self.stride = self.before[::2], 2 * self.stride
        self.logged += 1

    def improves(self, step: int, loss: float) -> bool:
        """Takes in an evaluation; whether it is the best so far."""
        if not math.isfinite(loss) or (self.best is not None and loss >= self.best):
            return False
        self.best, self.best_step = loss, step
        return True

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return vars(self) | {"before": torch.tensor(self.before, dtype=torch.float64)}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """From a checkpoint."""
        for name, value in state.items():
            setattr(self, name, array("d", value.tolist()) if name == "before" else value)


def show(run: Run, history: History, end: Ended | None, sample: str | None) -> None:
    """Prints and logs the summary; `end` is what ended the run early."""
    status, logged = run.status, history.logged
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
    if isinstance(end, Interrupted):
        rows["to go on"] = f"python train.py resume={folder}"
    log.info("\n%s", "\n".join(f"{name:<13}{text}" for name, text in rows.items()))


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
