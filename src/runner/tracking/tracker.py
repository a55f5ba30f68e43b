"""What a run logs while it trains: scalars to TensorBoard and to metrics.jsonl; text, pictures and HParams' rows."""

import math
import time
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from torch import Tensor
from torch.utils.tensorboard import summary

from gradclip import ClipReport
from runner.tracking import flow
from runner.tracking.events import EVENTS, EventWriter
from runner.tracking.metrics import MetricsWriter
from runner.tracking.tags import METRIC, OBJECTIVE, OVERLAY, STEP, VALIDATION, hparam_value, step_with_parameters
from runner.tracking.truncation import log_lengths

BINS = 64  # of a histogram


class Logged(NamedTuple):
    """The values of a logged step that the loop itself looks at."""

    loss: float
    before: float
    after: float
    clipped: bool
    weight_norm: float | None


class Tracker:
    """Writes a run's event file and its metrics.jsonl.

    after: how many steps the folder's logs already hold. TensorBoard forgets what it has read of later ones, and the
    texts of the start are not written again. Every method raises OSError, which names the file, where one cannot be
    written.
    """

    def __init__(self, folder: Path, settings: str, facts: dict[str, str], *, after: int = 0):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._has_hparams = False
        self._resumed = after > 0
        needs_purge = self._resumed and _is_newest_event_file(folder)
        self._events = EventWriter(folder, purge_step=after + 1 if needs_purge else None)
        self._metrics = MetricsWriter(folder)
        if self._resumed:
            return
        listed = "\n".join(f"- {name}: {value}" for name, value in facts.items())
        self._add(summary.custom_scalars(OVERLAY))  # type: ignore[no-untyped-call]
        self._add(summary.text("config", f"```yaml\n{settings}\n```"))  # type: ignore[no-untyped-call]
        self._add(summary.text("data", listed))  # type: ignore[no-untyped-call]

    def step(
        self,
        step: int,
        loss: Tensor,
        report: ClipReport,
        *,
        rate: float,
        speed: float,
        dropped: int,
        weights: Tensor | None = None,
    ) -> Logged:
        """Logs a step. The one place where a step waits for an accelerator.

        weights: their norm and that of the step's change, [2], at the steps that have them; then each parameter's
            norms follow too.
        """
        limit = report.limits.squeeze() if report.limits.numel() == 1 else report.limits.median()
        vectors = [] if weights is None else [weights, report.parameter_before, report.parameter_after]
        found = _read([loss, report.before, report.after, limit, report.fraction], vectors, report.before)
        mean, before, after, limited, fraction, *norms = found
        scale = after / before if before > 0 else 1.0
        values, size = [mean, before, after, limited, fraction, scale, rate, speed, dropped], None
        if norms:
            size, change, *norms = norms
            values += [size, change / size if size > 0 else 0.0, *norms]
        self._write(step, step_with_parameters(report.names) if weights is not None else STEP, values)
        return Logged(mean, before, after, fraction > 0, size)

    def picture(self, step: int, parameters: Mapping[str, tuple[float, float]]) -> None:
        """Writes the gradient-flow picture of a step: each parameter's norm before and after clipping."""
        drawn = flow.draw(step, parameters)
        image = Summary.Image(height=drawn.height, width=drawn.width, colorspace=3, encoded_image_string=drawn.png)
        self._add(Summary(value=[Summary.Value(tag="gradient_flow", image=image)]), step)

    def histograms(self, step: int, named: Mapping[str, Tensor | None]) -> None:
        """Writes the distribution of each tensor's elements; one that is missing or not finite has none."""
        found = {name: _histogram(tensor.detach()) for name, tensor in named.items() if tensor is not None}
        values = [Summary.Value(tag=f"histogram/{name}", histo=histo) for name, histo in found.items() if histo]
        self._add(Summary(value=values), step)

    def evaluation(self, step: int, loss: float, metrics: dict[str, float], best: float | None = None) -> None:
        """Logs the loss and the metrics on the held-out data; and the best loss, which HParams shows."""
        values = {VALIDATION: loss} | {f"{METRIC}{name}": value for name, value in metrics.items()}
        values |= {} if best is None else {OBJECTIVE: best}
        self._write(step, tuple(values), list(values.values()))

    def begin(self, swept: dict[str, Any]) -> None:
        """Begins the run's row in the HParams table, with a column for each swept key; the cell of a null is empty."""
        self._has_hparams = bool(swept)
        if swept and not self._resumed:
            values = {key: hparam_value(value) for key, value in swept.items() if value is not None}
            # Never the Experiment, the first of the three: one run's would hide the columns of all others.
            _, start, _ = summary.hparams(values, {})  # type: ignore[no-untyped-call]
            self._add(start)
            self.flush()

    def flush(self) -> None:
        """Returns when everything so far is in the files."""
        self._events.flush()

    def written(self) -> dict[str, int]:
        """The lengths of the folder's event files and metrics.jsonl, everything so far included: for a checkpoint."""
        self.flush()
        return log_lengths(self._folder)

    def close(self, finished: bool = True) -> None:
        """Closes the files. The row in HParams says success if the run has finished, and stays unknown otherwise."""
        try:
            if self._has_hparams and finished:
                _, _, end = summary.hparams({}, {})  # type: ignore[no-untyped-call]
                self._add(end)
        finally:
            self._metrics.close()
            self._events.close()

    def _write(self, step: int, tags: tuple[str, ...], values: Sequence[float]) -> None:
        """Writes the values of some tags at a step to both files: every scalar passes here."""
        # An event of 200 values, filled again and again, costs a hundredth of 200 calls of add_scalar.
        event, slots = _template(tags)
        for slot, value in zip(slots, values, strict=True):
            slot.simple_value = value
        self._events.add(event, step)
        self._metrics.write(step, dict(zip(tags, values, strict=True)))

    def _add(self, content: Summary, step: int = 0) -> None:
        self._events.add(Event(summary=content), step)


def _read(scalars: Sequence[Tensor], vectors: Sequence[Tensor], like: Tensor) -> list[float]:
    """All values one after the other: from an accelerator in one copy, on the CPU without an operation."""
    if like.is_cpu:
        return [*(each.item() for each in scalars), *chain.from_iterable(each.tolist() for each in vectors)]
    together = torch.stack([each.detach().to(like) for each in scalars])
    values: list[float] = torch.cat([together, *(each.to(like) for each in vectors)]).tolist()
    return values


@cache
def _template(tags: tuple[str, ...]) -> tuple[Event, list[Summary.Value]]:
    """An event with these scalars, and where their values are to be put."""
    event = Event(summary=Summary(value=[Summary.Value(tag=tag) for tag in tags]))
    return event, list(event.summary.value)


def _histogram(tensor: Tensor) -> HistogramProto | None:
    """Counted by torch.histc, in a quarter of add_histogram's time; on the CPU: on CUDA it is not deterministic."""
    values = (tensor.coalesce().values() if tensor.is_sparse else tensor).float().flatten().cpu()
    if not values.numel():
        return None
    low, high = (bound.item() for bound in torch.aminmax(values))
    if not (math.isfinite(low) and math.isfinite(high)):
        return None
    counts = torch.histc(values, BINS, low, high).tolist() if high > low else [0.0] * (BINS - 1) + [values.numel()]
    width = (high - low) / BINS
    return HistogramProto(
        min=low,
        max=high,
        num=values.numel(),
        sum=values.sum().item(),
        sum_squares=values.square().sum().item(),
        bucket_limit=[low + width * (place + 1) for place in range(BINS - 1)] + [high],
        bucket=counts,
    )


def _is_newest_event_file(folder: Path) -> bool:
    """Whether an event file that is begun now sorts after all others by its name, which holds the second.

    TensorBoard reads the files in that order. If a purge stands in a file that is read before others, as after the
    clock was set back, points are purged that belong to the run.
    """
    seconds = [name.split(".")[3] for name in (path.name for path in folder.glob(EVENTS))]
    return time.time() > max((int(each) for each in seconds if each.isdecimal()), default=0) + 1
