"""Logs a run while it trains: scalars to TensorBoard and metrics.jsonl; text, images and HParams to TensorBoard."""

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
from runner.tracking import pictures
from runner.tracking.events import EVENT_FILES, EventWriter
from runner.tracking.metrics import MetricsWriter
from runner.tracking.norm_history import NormHistory
from runner.tracking.tags import (
    CLIP_COST,
    CLIPPING,
    LAYOUT,
    METRIC_PREFIX,
    OBJECTIVE,
    STEP_TAGS,
    VALIDATION_LOSS,
    hparam_value,
    step_with_parameters,
)
from runner.tracking.truncation import log_lengths

BINS = 64  # of a histogram


class LoggedStep(NamedTuple):
    """The values of a logged step, as floats, that the training loop uses."""

    loss: float
    before: float
    after: float
    clipped: bool
    weight_norm: float | None
    update_ratio: float | None


class Tracker:
    """Writes a run's event file and its metrics.jsonl.

    settings: the configuration as YAML. facts: facts about the data by name, such as its size. after: for a resumed
    run, the last step that the folder's logs hold: TensorBoard discards what it has read of later steps, and the texts
    are not written again. Every method raises OSError, which names the file, if a file cannot be written.
    """

    def __init__(self, folder: Path, settings: str, facts: dict[str, str], *, after: int = 0):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._has_hparams = False
        self._resumed = after > 0
        needs_purge = self._resumed and _is_newest_event_file(folder)
        self._events = EventWriter(folder, purge_step=after + 1 if needs_purge else None)
        self._metrics = MetricsWriter(folder)
        self._parameters, self._limit, self._drawn = NormHistory(), math.nan, 0
        if self._resumed:
            self._parameters.load(folder)
            return
        listed = "\n".join(f"- {name}: {value}" for name, value in facts.items())
        self._add(summary.custom_scalars(LAYOUT))  # type: ignore[no-untyped-call]
        self._add(summary.text("config", f"```yaml\n{settings}\n```"))  # type: ignore[no-untyped-call]
        self._add(summary.text("data", listed))  # type: ignore[no-untyped-call]

    def step(
        self,
        step: int,
        loss: Tensor,
        report: ClipReport,
        *,
        lr: float,
        steps_per_second: float,
        dropped: int,
        update_norms: Tensor | None = None,
        extra: Mapping[str, float] | None = None,
    ) -> LoggedStep:
        """Logs a step, after one copy of its values from the device, for which the step waits.

        loss: the batch's mean loss, 0-d. report: that of clipping. lr: the learning rate. dropped: the number of steps
        dropped so far. update_norms: the norm of all weights and that of their update, [2]; with them, the norms of
        each parameter's gradient are logged too. extra: further scalars of the project, by tag, the same at each step.
        """
        limit = report.limits.squeeze() if report.limits.numel() == 1 else report.limits.median()
        vectors = [] if update_norms is None else [update_norms, report.parameter_before, report.parameter_after]
        scalars = _read([loss, report.before, report.after, limit, report.fraction], vectors, report.before)
        mean_loss, before, after, max_norm, fraction, *norms = scalars
        scale = after / before if before > 0 else 1.0
        values, weight_norm = [mean_loss, before, after, max_norm, fraction, scale, lr, steps_per_second, dropped], None
        update_ratio = None
        if norms:
            weight_norm, update_norm, *norms = norms
            update_ratio = update_norm / weight_norm if weight_norm > 0 else 0.0
            values += [weight_norm, update_ratio, *norms]
            self._parameters.add(step, dict(zip(report.names, norms, strict=False)))  # the norms before come first
        self._limit = max_norm
        tags = STEP_TAGS if update_norms is None else step_with_parameters(report.names)
        extra = extra or {}
        self._write(step, (*tags, *extra), [*values, *extra.values()])
        return LoggedStep(mean_loss, before, after, fraction > 0, weight_norm, update_ratio)

    def gradient_norms(self, step: int, norms: Sequence[float], clipped: float, *, limits_all: bool) -> None:
        """Writes the pictures of the norms before clipping: of each parameter over the steps, and of all gradients.

        norms: those of all gradients at the logged steps. clipped: the share of the logged steps that were limited.
        limits_all: whether the limit is compared with these norms, and not with those of layers or of some parameters.
        Does nothing if the pictures of the step are written already.
        """
        if step == self._drawn:
            return
        self._drawn = step
        if self._parameters.steps:
            self._picture(step, "gradient_norms", pictures.draw_norms(self._parameters.steps, self._parameters.norms))
        limit = self._limit if limits_all else None
        self._picture(step, "norm_histogram", pictures.draw_histogram(norms, limit, clipped))

    def _picture(self, step: int, tag: str, drawn: pictures.Image) -> None:
        image = Summary.Image(height=drawn.height, width=drawn.width, colorspace=3, encoded_image_string=drawn.png)
        self._add(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

    def text(self, tag: str, text: str, step: int = 0) -> None:
        """Writes a text in Markdown."""
        self._add(summary.text(tag, text), step)  # type: ignore[no-untyped-call]

    def histograms(self, step: int, tensors: Mapping[str, Tensor | None]) -> None:
        """Writes a histogram of each tensor's elements, without tensors that are None, empty or not finite."""
        counted = {name: _histogram(tensor.detach()) for name, tensor in tensors.items() if tensor is not None}
        values = [Summary.Value(tag=f"histogram/{name}", histo=histo) for name, histo in counted.items() if histo]
        self._add(Summary(value=values), step)

    def evaluation(self, step: int, loss: float, metrics: dict[str, float], best: float | None = None) -> None:
        """Logs the loss and the metrics on the held-out data, and the best loss so far, which HParams shows."""
        values = {VALIDATION_LOSS: loss} | {f"{METRIC_PREFIX}{name}": value for name, value in metrics.items()}
        values |= {} if best is None else {OBJECTIVE: best}
        self._write(step, tuple(values), list(values.values()))

    def conclude(self, step: int, scalars: Mapping[str, float], clipping: str | None) -> None:
        """Logs at the end of a run further scalars, by tag, and the text on what clipping did.

        A resumed run logs its own: they lie behind the log lengths of every checkpoint. The cost of clipping, which
        only some runs have, is left out of TensorBoard: its parallel coordinates show no run that lacks a scalar.
        """
        shown = {tag: value for tag, value in scalars.items() if tag != CLIP_COST}
        if shown:
            self._write(step, tuple(shown), list(shown.values()))
        if CLIP_COST in scalars:
            self._metrics.write(step, {CLIP_COST: scalars[CLIP_COST]})
        if clipping:
            self.text(CLIPPING, clipping, step)

    def begin(self, swept: dict[str, Any]) -> None:
        """Begins the run's row in the HParams table, with a cell for each swept key; that of a null is empty."""
        self._has_hparams = bool(swept)
        if swept and not self._resumed:
            values = {key: hparam_value(value) for key, value in swept.items() if value is not None}
            # The first one, the Experiment, is not written: that of one run would hide the columns of all others.
            _, start, _ = summary.hparams(values, {})  # type: ignore[no-untyped-call]
            self._add(start)
            self.flush()

    def flush(self) -> None:
        """Writes buffered events to the event file."""
        self._events.flush()

    def log_lengths(self) -> dict[str, int]:
        """The lengths of the folder's event files and metrics.jsonl after a flush, for a checkpoint."""
        self.flush()
        return log_lengths(self._folder)

    def close(self, finished: bool = True) -> None:
        """Closes the files. The status in HParams is success if the run has finished, and stays unknown otherwise."""
        try:
            if self._has_hparams and finished:
                _, _, end = summary.hparams({}, {})  # type: ignore[no-untyped-call]
                self._add(end)
        finally:
            self._metrics.close()
            self._events.close()

    def _write(self, step: int, tags: tuple[str, ...], values: Sequence[float]) -> None:
        """Writes the values of tags at a step to both files."""
        # Reusing one event with 200 values costs a hundredth of 200 calls of add_scalar.
        event, slots = _template(tags)
        for slot, value in zip(slots, values, strict=True):
            slot.simple_value = value
        self._events.add(event, step)
        self._metrics.write(step, dict(zip(tags, values, strict=True)))

    def _add(self, content: Summary, step: int = 0) -> None:
        self._events.add(Event(summary=content), step)


def _read(scalars: Sequence[Tensor], vectors: Sequence[Tensor], like: Tensor) -> list[float]:
    """The values of all tensors as one list: read from an accelerator in one copy, on the CPU without an operation."""
    if like.is_cpu:
        return [*(scalar.item() for scalar in scalars), *chain.from_iterable(vector.tolist() for vector in vectors)]
    stacked = torch.stack([scalar.detach().to(like) for scalar in scalars])
    values: list[float] = torch.cat([stacked, *(vector.to(like) for vector in vectors)]).tolist()
    return values


@cache
def _template(tags: tuple[str, ...]) -> tuple[Event, list[Summary.Value]]:
    """An event with these scalars, and the messages that hold their values."""
    event = Event(summary=Summary(value=[Summary.Value(tag=tag) for tag in tags]))
    return event, list(event.summary.value)


def _histogram(tensor: Tensor) -> HistogramProto | None:
    """The histogram of a tensor; None if it is empty or not finite.

    By torch.histc, which takes a quarter of add_histogram's time; on the CPU, since on CUDA it is not deterministic.
    """
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
        bucket_limit=[low + width * (index + 1) for index in range(BINS - 1)] + [high],
        bucket=counts,
    )


def _is_newest_event_file(folder: Path) -> bool:
    """Whether an event file created now sorts after all others by its name, which holds the time in seconds.

    TensorBoard reads the files in that order. In a file that is read before others, as after the clock was set back, a
    purge would discard points that belong to the run.
    """
    seconds = [name.split(".")[3] for name in (path.name for path in folder.glob(EVENT_FILES))]
    return time.time() > max((int(second) for second in seconds if second.isdecimal()), default=0) + 1
