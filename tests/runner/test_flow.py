"""The gradient-flow plot: the marks of every parameter are at its norms before and after clipping."""

import io
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageColor

from runner.tracking import flow


def pixels(picture: flow.Image) -> NDArray[np.int_]:
    image = Image.open(io.BytesIO(picture.png)).convert("RGB")
    assert image.size == (picture.width, picture.height)
    return np.asarray(image, dtype=int)


def position(picture: flow.Image, row: int, color: str) -> float | None:
    """The horizontal position of a color in a row of the plot: the middle of its marks; None without any."""
    top = flow.TOP + row * flow.ROW
    part = pixels(picture)[top : top + flow.ROW]
    close = (np.abs(part - np.array(ImageColor.getrgb(color))) < 24).all(2)
    columns = np.nonzero(close.any(0))[0]
    return None if not len(columns) else (columns[0] + columns[-1]) / 2


def test_marks_are_at_the_positions_of_the_norms() -> None:
    picture = flow.draw(7, {"a": (100.0, 1.0), "b": (10.0, 10.0), "c": (1.0, 0.1), "d": (0.1, 0.1)})
    before = [position(picture, row, flow.BEFORE_COLOR) for row in range(4)]
    after = [position(picture, row, flow.AFTER_COLOR) for row in range(4)]
    decade = (before[0] - before[3]) / 3
    assert decade > 100
    assert np.diff(before).tolist() == pytest.approx([-decade] * 3, abs=1.5)
    assert after[1] == pytest.approx(before[1], abs=1.5)
    assert after[0] == pytest.approx(before[2], abs=1.5)  # both 1
    assert after[2] == pytest.approx(before[3], abs=1.5)  # both 0.1


def test_zero_and_non_finite_norms() -> None:
    picture = flow.draw(1, {"none": (0.0, 0.0), "dropped": (1.0, 0.0), "bad": (math.inf, math.nan), "w": (2.0, 1.0)})
    assert [position(picture, row, flow.BEFORE_COLOR) is not None for row in range(4)] == [False, True, False, True]
    assert [position(picture, row, flow.AFTER_COLOR) is not None for row in range(4)] == [False, False, False, True]
    for norms in ({}, {"w": (0.0, 0.0)}, {"w": (1e-300, 1e300)}, {"w": (1.0, 1.0)}):
        pixels(flow.draw(1, norms))


def test_many_parameters_are_drawn_by_module() -> None:
    norms = {f"blocks.{block}.{part}.{name}": (3.0, 2.0) for block in range(30) for part in "qk" for name in ("w", "b")}
    grouped = flow.by_module(norms)
    assert list(grouped)[:3] == ["blocks.0.q", "blocks.0.k", "blocks.1.q"]
    assert len(grouped) == flow.MAX_ROWS
    assert grouped["blocks.7.k"] == pytest.approx((math.sqrt(18), math.sqrt(8)))
    assert flow.draw(1, norms).height == flow.draw(1, grouped).height
    deeper = {f"blocks.{block}.{part}.{name}.x": (1.0, 1.0) for block in range(50) for part in "qk" for name in "wb"}
    assert list(flow.by_module(deeper)) == [f"blocks.{block}" for block in range(50)]
    assert len(flow.by_module({f"p{number}": (1.0, 1.0) for number in range(100)})) == flow.MAX_ROWS


def test_decades_enclose_all_positive_finite_norms() -> None:
    assert flow.decades([0.02, 30.0, 0.0, math.inf]) == (-2, 2)
    assert flow.decades([1.0]) == (0, 1)
    assert flow.decades([]) == (0, 1)
