"""TensorBoard: the names of all tags, one Summary a step, the charts' layout, and the rows of HParams."""

import json
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from gradclip import ClipReport
from runner.runs.files import naming
from runner.tracking import flow

BINS = 64  # of a histogram

log = logging.getLogger(__name__)

EVENTS = "events.out.tfevents.*"
LOSS, VALIDATION = "loss/train", "loss/val"
OBJECTIVE = "best/objective"  # the first of all tags, so that HParams shows it beside the swept keys
BEFORE, AFTER = "grad_norm/before", "grad_norm/after"
LIMIT, FRACTION = "clip/limit", "clip/fraction"
STEP = (LOSS, BEFORE, AFTER, LIMIT, FRACTION, "clip/scale", "lr", "steps_per_second", "dropped")  # as step() has them

OVERLAY = {
    "gradient clipping": {
        "norm before and after": ["Multiline", ["^grad_norm/(before|after)$"]],
        "what clipping takes away": ["Margin", ["grad_norm/after", "grad_norm/after", "grad_norm/before"]],
        "limit": ["Multiline", ["^clip/limit$"]],
        "share of blocks limited": ["Multiline", ["^clip/fraction$"]],
    },
    "loss": {"training and validation": ["Multiline", ["^loss/(train|val)$"]]},
}


class Logged(NamedTuple):
    """The values of a logged step that the loop itself looks at."""

    loss: float
    before: float
    after: float
    clipped: bool
    weight_norm: float | None


class Tracker:
    """Writes one run's event file.

    after: the steps that the folder's event files already hold. TensorBoard forgets what it has read of later ones,
    and the texts of the start are not written again.
    """

    def __init__(self, folder: Path, settings: str, facts: dict[str, str], *, after: int = 0):
        self._folder = folder
        self._swept: dict[str, Any] = {}
        self._goes_on = after > 0
        purges = after > 0 and _sorts_last(folder)
        self._writer = SummaryWriter(str(folder), purge_step=after + 1 if purges else None)
        if after:
            return
        self._writer.add_custom_scalars(OVERLAY)
        self._writer.add_text("config", f"```yaml\n{settings}\n```")
        self._writer.add_text("data", "\n".join(f"- {name}: {value}" for name, value in facts.items()))

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
        """Writes a step. The one place where a step waits for an accelerator.

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
        self._write(step, _tags(report.names) if weights is not None else STEP, values)
        return Logged(mean, before, after, fraction > 0, size)

    def picture(self, step: int, parameters: Mapping[str, tuple[float, float]]) -> None:
        """Writes the gradient-flow picture of a step: each parameter's norm before and after clipping."""
        drawn = flow.draw(step, parameters)
        image = Summary.Image(height=drawn.height, width=drawn.width, colorspace=3, encoded_image_string=drawn.png)
        self._add(step, Summary(value=[Summary.Value(tag="gradient_flow", image=image)]))

    def histograms(self, step: int, named: Mapping[str, Tensor | None]) -> None:
        """Writes the distribution of each tensor's elements; one that is missing or not finite has none."""
        found = {name: _histogram(tensor.detach()) for name, tensor in named.items() if tensor is not None}
        values = [Summary.Value(tag=f"histogram/{name}", histo=histo) for name, histo in found.items() if histo]
        self._add(step, Summary(value=values))

    def evaluation(self, step: int, loss: float, metrics: dict[str, float], best: float | None = None) -> None:
        """Writes the loss and the metrics on the held-out data; and the best loss, which HParams shows."""
        values = {VALIDATION: loss} | {f"metric/{name}": value for name, value in metrics.items()}
        values |= {} if best is None else {OBJECTIVE: best}
        self._write(step, tuple(values), list(values.values()))

    def begin(self, swept: dict[str, Any]) -> None:
        """A row in HParams with a column for every swept key, once; a null has no column's value."""
        self._swept = {key: value for key, value in swept.items() if value is not None}
        if self._swept and not self._goes_on:
            start = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
            for key, value in self._swept.items():
                _set_value(start.hparams[key], value)
            self._hparams(metadata.SESSION_START_INFO_TAG, session_start_info=start)
            self._writer.flush()

    def flush(self) -> None:
        """Everything so far is in the file."""
        with naming(self._folder / EVENTS):
            self._writer.flush()

    def written(self) -> dict[str, int]:
        """The folder's event files and their lengths, everything so far included: for a checkpoint."""
        self.flush()
        return {path.name: path.stat().st_size for path in self._folder.glob(EVENTS)}

    def close(self, finished: bool = True) -> None:
        """Ends the row in HParams, and the file."""
        if self._swept:
            status = api_pb2.STATUS_SUCCESS if finished else api_pb2.STATUS_FAILURE
            end = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
            self._hparams(metadata.SESSION_END_INFO_TAG, session_end_info=end)
        with naming(self._folder / EVENTS):
            self._writer.close()

    def _hparams(self, tag: str, **content: Any) -> None:
        # Never the Experiment: the first run's would hide every other run's columns.
        data = plugin_data_pb2.HParamsPluginData(version=metadata.PLUGIN_DATA_VERSION, **content)
        marker = metadata.create_summary_metadata(data)
        summary = Summary(value=[Summary.Value(tag=tag, metadata=marker, tensor=metadata.NULL_TENSOR)])
        self._writer._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]

    def _write(self, step: int, tags: tuple[str, ...], values: Sequence[float]) -> None:
        # An event of 200 values, filled again and again, costs a hundredth of 200 calls of add_scalar.
        event, places = _template(tags)
        for place, value in zip(places, values, strict=True):
            place.simple_value = value
        with naming(self._folder / EVENTS):
            self._writer._get_file_writer().add_event(event, step)  # type: ignore[no-untyped-call]

    def _add(self, step: int, summary: Summary) -> None:
        with naming(self._folder / EVENTS):
            self._writer._get_file_writer().add_summary(summary, step)  # type: ignore[no-untyped-call]


def _read(scalars: Sequence[Tensor], vectors: Sequence[Tensor], like: Tensor) -> list[float]:
    """All values one after the other: from an accelerator in one copy, on the CPU without an operation."""
    if like.is_cpu:
        return [*(each.item() for each in scalars), *chain.from_iterable(each.tolist() for each in vectors)]
    together = torch.stack([each.detach().to(like) for each in scalars])
    values: list[float] = torch.cat([together, *(each.to(like) for each in vectors)]).tolist()
    return values


@cache
def _tags(names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of a step with every parameter's norms before clipping, then after."""
    norms = (f"grad_norm_{side}/{name}" for side in ("before", "after") for name in names)
    return (*STEP, "weight_norm", "update_ratio", *norms)


@cache
def _template(tags: tuple[str, ...]) -> tuple[Event, list[Summary.Value]]:
    """An event with these scalars, and where their values are to be put."""
    event = Event(summary=Summary(value=[Summary.Value(tag=tag) for tag in tags]))
    return event, list(event.summary.value)


def _histogram(tensor: Tensor) -> HistogramProto | None:
    """Counted by torch.histc, in a quarter of add_histogram's time; on the CPU: on CUDA it is not deterministic."""
    values = (tensor._values() if tensor.is_sparse else tensor).float().flatten().cpu()
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


def _sorts_last(folder: Path) -> bool:
    """Whether an event file begun now comes after the others by its name, which holds the second.

    TensorBoard reads in that order. Told to forget in an earlier file, as after a clock was set back, it would
    forget what is good.
    """
    seconds = [name.split(".")[3] for name in (path.name for path in folder.glob(EVENTS))]
    return time.time() > max((int(each) for each in seconds if each.isdecimal()), default=0) + 1


def truncate_events(folder: Path, lengths: dict[str, int]) -> None:
    """Takes away what event files hold beyond a checkpoint, whose `written()` this is.

    What came after it will come again, and no reader is to find it twice. A file that is not named
    was begun later.
    """
    found = {path.name: path for path in folder.glob(EVENTS)}
    for name in lengths.keys() - found:
        log.warning("%s: gone, and its points with it", folder / name)
    for name, path in found.items():
        length = lengths.get(name)
        if length is None:
            path.unlink()
        elif path.stat().st_size >= length:
            os.truncate(path, length)
        else:
            log.warning("%s: points are missing at its end", path)


def _set_value(field: Any, value: Any) -> None:
    """HParams knows true and false, numbers, and text for everything else."""
    if isinstance(value, bool):
        field.bool_value = value
    elif isinstance(value, int | float) and math.isfinite(value):
        field.number_value = value
    else:
        field.string_value = value if isinstance(value, str) else json.dumps(value)
