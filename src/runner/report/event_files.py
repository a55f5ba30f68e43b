"""Scalars in the event files of other programs."""

from pathlib import Path

from runner.tracking.metrics import StepValues


def read_scalars(folder: Path) -> dict[str, StepValues]:
    """The scalars in the event files of another program by tag, in either of TensorBoard's formats for scalars."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    scalars = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    for tag in events.Tags()["tensors"]:
        arrays = [(event.step, make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]
        if all(array.size == 1 and array.dtype.kind in "fiu" for _, array in arrays):
            scalars[tag] = [(step, float(array.item())) for step, array in arrays]
    return scalars
