"""Comparison of runs, bit for bit."""

import re
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util.tensor_util import make_ndarray
from torch import Tensor

from runner.runs import checkpoint
from runner.tracking.metrics import METRICS_FILE

TIMES = ("steps_per_second", "clip/cost")
COST = re.compile(rb"; clipping took \S+ % of a step's time")
POST_MORTEM = "post_mortem/text_summary"  # its command and its replay depend on whether the run was resumed


def scalars(folder: Path) -> dict[str, list[tuple[int, Any]]]:
    """The points of a run by tag, in the order in which they were written, without measured times and the
    post-mortem.
    """
    by_tag: dict[str, list[tuple[int, Any]]] = {}
    for tag, step, value in points(folder):
        if tag not in (*TIMES, POST_MORTEM):
            by_tag.setdefault(tag, []).append((step, value))
    return by_tag


def shown_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The steps and values of all scalars by tag, as TensorBoard reads them."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def points(folder: Path) -> list[tuple[str, int, Any]]:
    """The tag, step and value of every point in the event files, including those that TensorBoard discards.

    The files are sorted by the numbers in their names. TensorBoard sorts them by name, and reads the tenth file before
    the ninth if one process wrote them in the same second, as only tests do.
    """
    files = sorted(folder.glob("events*"), key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)])
    return [
        (value.tag, event.step, _content(value.tensor) if value.HasField("tensor") else value.simple_value)
        for path in files
        for event in EventFileLoader(str(path)).Load()
        if event.HasField("summary")
        for value in event.summary.value
    ]


def _content(tensor: Any) -> list[Any]:
    """The values of a tensor in an event file; of a text without measured times."""
    values = make_ndarray(tensor).ravel().tolist()
    return [COST.sub(b"", value) if isinstance(value, bytes) else value for value in values]


def metrics(folder: Path) -> list[str]:
    """The lines of metrics.jsonl without measured times."""
    text = (folder / METRICS_FILE).read_text(encoding="utf-8")
    lines = re.sub(rf', "({"|".join(TIMES)})": [^,}}]+', "", text).splitlines()
    return [line for line in lines if not re.fullmatch(r'\{"step": \d+\}', line)]


def assert_identical(one: Any, other: Any, path: str = "") -> None:
    """Fails, with the path of the difference, unless two saved trees are equal bit for bit."""
    assert type(one) is type(other), path
    if isinstance(one, Tensor):
        assert one.dtype == other.dtype, path
        assert torch.equal(*(tensor.reshape(-1).view(torch.uint8) for tensor in (one, other))), path
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_identical(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_identical(*pair, f"{path}[{index}]")
    else:
        assert one == other or one != one, f"{path}: {one} is not {other}"


def assert_same_run(one: Path, other: Path, step: int) -> None:
    """Fails unless the checkpoint of a step, the best one, all points and metrics.jsonl of two runs are equal."""
    for which in (f"step_{step}.pt", "best.pt"):
        contents = [checkpoint.load(folder / "checkpoints" / which) for folder in (one, other)]
        for content in contents:
            del content["logs"]  # the lengths of files, which depend on the times in them
        assert_identical(*contents)
    assert scalars(one) == scalars(other)
    assert metrics(one) == metrics(other)
    for folder in (one, other):
        logged = [(tag, step) for tag, step, _ in points(folder)]
        assert len(set(logged)) == len(logged), "a point was written twice"
