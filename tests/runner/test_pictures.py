"""The pictures of gradient norms: their colors and bars are those of the norms."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageColor

from runner.tracking import pictures
from runner.tracking.metrics import MetricsWriter
from runner.tracking.norm_history import COLUMNS, NormHistory


def pixels(picture: pictures.Image) -> NDArray[np.int_]:
    image = Image.open(io.BytesIO(picture.png)).convert("RGB")
    assert image.size == (picture.width, picture.height)
    return np.asarray(image, dtype=int)


def cells(picture: pictures.Image, rows: int, steps: int) -> NDArray[np.int_]:
    """The color in the middle of each cell, [rows, steps, 3]. The names are one character wide."""
    drawn = pixels(picture)
    middle = [pictures.TOP + pictures.ROW * row + pictures.ROW // 2 for row in range(rows)]
    frame = np.array(ImageColor.getrgb("#DDDDDD"))
    edges = np.nonzero((np.abs(drawn[middle[0]] - frame) < 12).all(-1))[0]
    left, right = edges[0] + 1, edges[-1]
    columns = [round(left + (right - left) * (step + 0.5) / steps) for step in range(steps)]
    return drawn[np.ix_(middle, columns)]


def near(color: NDArray[np.int_], expected: str) -> bool:
    return bool((np.abs(color - np.array(ImageColor.getrgb(expected))) < 24).all())


def test_a_larger_norm_is_lighter() -> None:
    """On a logarithmic scale whose ends are the colors of the smallest and the largest decade."""
    picture = pictures.draw_norms([1, 5, 9], {"a": [0.01, 0.1, 1.0], "b": [1.0, 10.0, 100.0]})
    found = cells(picture, 2, 3)
    colors = [pictures.color_of(10.0**exponent, -2, 2) for exponent in range(-2, 3)]
    for row, norms in enumerate(([-2, -1, 0], [0, 1, 2])):
        for column, exponent in enumerate(norms):
            assert near(found[row, column], colors[exponent + 2]), (row, column)
    lightness = [sum(ImageColor.getrgb(color)) for color in colors]
    assert lightness == sorted(lightness)


def test_zero_and_non_finite_norms() -> None:
    picture = pictures.draw_norms([1, 2], {"a": [0.0, math.inf], "b": [math.nan, 1.0]})
    found = cells(picture, 2, 2)
    assert near(found[0, 0], pictures.ZERO_COLOR)
    assert near(found[0, 1], pictures.BAD_COLOR)
    assert near(found[1, 0], pictures.BAD_COLOR)
    for norms in ([0.0], [1e-300], [1e300], [1.0]):
        pixels(pictures.draw_norms([1], {"w": norms}))


def test_one_nan_among_many_colors_keeps_its_color() -> None:
    generator = np.random.default_rng(0)
    norms = {f"{row}": (10.0 ** generator.uniform(-6, 2, 256)).tolist() for row in range(10)}
    norms["5"][128] = math.nan
    found = cells(pictures.draw_norms(list(range(256)), norms), 10, 256)
    bad = [(row, column) for row in range(10) for column in range(256) if near(found[row, column], pictures.BAD_COLOR)]
    assert bad == [(5, 128)]


def test_names_and_norms_of_any_size() -> None:
    picture = pictures.draw_norms([1, 2, 3], {"x" * 300: [1.0, 2.0, 3.0], "w": [1e-300, 1.5e308, 1.0]})
    assert picture.width == pictures.WIDTH
    pixels(pictures.draw_norms([1], {"w": [1.5e308]}))


def test_many_parameters_are_drawn_by_module() -> None:
    names = [f"blocks.{block}.{part}.{name}" for block in range(50) for part in "qk" for name in "wb"]
    norms = {name: [3.0, 4.0] for name in names}
    picture = pictures.draw_norms([1, 2], norms)
    assert picture.height == pictures.TOP + 50 * pictures.ROW + pictures.BOTTOM
    grouped = pictures.combine({name: np.array(row) for name, row in norms.items()})
    assert list(grouped) == [f"blocks.{block}" for block in range(50)]
    assert grouped["blocks.7"].tolist() == pytest.approx([6.0, 8.0])  # the root of four squares


def test_neighbors_are_combined_where_the_modules_would_be_too_few() -> None:
    """The depth of a model of a hundred layers stays visible, and no parameter is left out."""
    layers = {f"layers.{number}.weight": np.full(1, float(number)) for number in range(100)}
    grouped = pictures.combine(layers)
    assert list(grouped) == [f"layers.{number} to layers.{number + 1}" for number in range(0, 100, 2)]
    assert grouped["layers.4 to layers.5"].tolist() == pytest.approx([math.hypot(4, 5)])
    flat = {f"p{number}": np.ones(1) for number in range(150)}
    grouped = pictures.combine(flat)
    assert len(grouped) == 50
    assert list(grouped)[-1] == "p147 to p149"
    assert sum(float(row[0] ** 2) for row in grouped.values()) == pytest.approx(150)
    assert pictures.draw_norms([1], {name: [1.0] for name in flat}).height == (
        pictures.TOP + 50 * pictures.ROW + pictures.BOTTOM
    )


def test_the_histogram_marks_the_threshold() -> None:
    norms = [0.1] * 10 + [10.0] * 30
    drawn = pixels(pictures.draw_histogram(norms, 1.0))
    base = pictures.TOP + pictures.CHART
    mark = np.abs(drawn[pictures.TOP + 20] - np.array(ImageColor.getrgb(pictures.AFTER_COLOR))).max(-1) < 24
    columns = np.nonzero(mark)[0]
    assert len(columns) == 3
    bars = np.abs(drawn[base - 5] - np.array(ImageColor.getrgb(pictures.BEFORE_COLOR))).max(-1) < 24
    left, right = np.nonzero(bars)[0][[0, -1]]
    assert left < columns[1] < right
    # The decades -1 and 1 are as far apart as 0, where the threshold is, and twice each of them.
    blue = np.array(ImageColor.getrgb(pictures.BEFORE_COLOR))
    heights = [int((np.abs(drawn[:base, column] - blue).max(-1) < 24).sum()) for column in (left + 2, right - 2)]
    assert heights[1] == pytest.approx(3 * heights[0], rel=0.05)


def test_a_histogram_without_a_threshold_or_norms() -> None:
    for norms, limit in (([], None), ([1.0], math.inf), ([0.0, math.nan, math.inf], 1.0), ([1e-300, 1e300], None)):
        drawn = pixels(pictures.draw_histogram(norms, limit))
        mark = np.abs(drawn[pictures.TOP + 20] - np.array(ImageColor.getrgb(pictures.AFTER_COLOR))).max(-1) < 24
        assert bool(mark.any()) == (limit == 1.0)


def test_the_texts_of_the_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL.ImageDraw import ImageDraw

    written: list[str] = []
    text = ImageDraw.text
    monkeypatch.setattr(ImageDraw, "text", lambda pen, xy, string, *more, **named: (
        written.append(string), text(pen, xy, string, *more, **named)))  # fmt: skip
    pictures.draw_histogram([1.0, 2.0, math.inf, 0.0], 1.5, 0.25)
    assert "norms before clipping at 2 logged steps; 2 more are 0 or not finite" in written
    assert "latest threshold 1.5; 25.0 % of the steps were clipped" in written
    pictures.draw_norms([3, 7], {f"p{number}": [1.0, 1.0] for number in range(61)})
    assert "2-norm of the gradients of 61 parameters, combined" in written
    assert "before clipping, steps 3 to 7" in written
    pictures.draw_norms([3, 7], {"weight": [1.0, 1.0]})
    assert "2-norm of each gradient" in written


def test_decades_enclose_all_positive_finite_norms() -> None:
    assert pictures.decades([0.02, 30.0, 0.0, math.inf]) == (-2, 2)
    assert pictures.decades([1.0]) == (0, 1)
    assert pictures.decades([]) == (0, 1)


def test_a_long_run_keeps_its_largest_norms_and_is_the_same_after_a_resume(tmp_path: Path) -> None:
    """Each column has the largest norm of its steps, so that a spike and the last steps stay visible."""
    history, writer = NormHistory(), MetricsWriter(tmp_path)
    for step in range(1, 1202):
        norm = {7: math.inf, 500: 1e6, 900: math.nan, 1201: 99.0}.get(step, 1.0)
        history.add(step, {"a": norm, "b": float(step)})
        writer.write(step, {"grad_norm_before/a": norm, "grad_norm_before/b": float(step), "grad_norm_after/a": 0.5})
        assert len(history.steps) <= COLUMNS
    writer.close()
    assert history.steps == [*range(8, 1201, 8), 1201]
    assert history.norms["b"] == [float(step) for step in history.steps]
    spikes = {step: norm for step, norm in zip(history.steps, history.norms["a"], strict=True) if norm != 1.0}
    assert list(spikes) == [8, 504, 904, 1201]
    assert spikes[8] == math.inf
    assert spikes[504] == 1e6
    assert math.isnan(spikes.pop(904))
    assert spikes[1201] == 99.0
    resumed = NormHistory()
    resumed.load(tmp_path)
    assert resumed.steps == history.steps
    np.testing.assert_array_equal(resumed.norms["a"], history.norms["a"])
    assert resumed.norms["b"] == history.norms["b"]
