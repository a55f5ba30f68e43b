"""Pictures for TensorBoard: the norm of every parameter's gradient over the steps, and a histogram of all norms.

Drawn with Pillow, which TensorBoard installs: importing matplotlib would add a second to the start of a run.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont
    from PIL.Image import Image as PillowImage

WIDTH, ROW, TOP, BOTTOM, MARGIN = 900, 20, 46, 46, 14  # pixels; ROW is the height of one row
MAX_ROWS = 60  # with more parameters, a picture shows modules
BEFORE_COLOR, AFTER_COLOR = "#0072B2", "#D55E00"  # Okabe and Ito's blue and vermilion
ZERO_COLOR, BAD_COLOR = "#FFFFFF", AFTER_COLOR  # of a gradient that is zero or missing, and of one that is not finite
# From small to large norms, like matplotlib's viridis: the lightness rises, so that it is readable without colors.
SCALE = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], np.float64)
BINS, CHART = 60, 240  # of the histogram: bins, and the height of the chart in pixels

Norms = NDArray[np.float64]


class Image(NamedTuple):
    """An image as PNG, and its size in pixels."""

    png: bytes
    width: int
    height: int


def draw_norms(steps: Sequence[int], norms: Mapping[str, Sequence[float]]) -> Image:
    """Draws the norms of each parameter's gradient at these steps as one row of colors, on a logarithmic scale.

    norms: by parameter, from top to bottom, one at each step; 0 without a gradient.
    """
    rows = {name: np.asarray(row, np.float64) for name, row in norms.items()}
    rows = rows if len(rows) <= MAX_ROWS else by_module(rows)
    low, high = decades([norm for row in rows.values() for norm in row.tolist()])
    height = TOP + ROW * max(len(rows), 1) + BOTTOM
    image, pen, font = _canvas(height)
    left = MARGIN + int(max((font.getlength(name) for name in rows), default=0)) + MARGIN
    right = WIDTH - MARGIN
    pen.text((MARGIN, 6), f"2-norm of each gradient before clipping, steps {steps[0]} to {steps[-1]}", "black", font)
    _color_bar(pen, font, low, high)
    columns = np.linspace(left, right, len(steps) + 1)
    for index, (name, row) in enumerate(rows.items()):
        top = TOP + ROW * index
        pen.text((left - MARGIN, top + ROW // 2), name, "black", font, anchor="rm")
        for column, norm in enumerate(row.tolist()):
            box = (columns[column], top + 1, max(columns[column + 1] - 1, columns[column]), top + ROW - 1)
            pen.rectangle(box, color_of(norm, low, high))
        pen.rectangle((left - 1, top, right, top + ROW), outline="#DDDDDD")
    for column in sorted({0, len(steps) // 2, len(steps) - 1}):
        x = (columns[column] + columns[column + 1]) / 2
        anchor = "ma" if len(steps) == 1 or 0 < column < len(steps) - 1 else "la" if column == 0 else "ra"
        pen.text((x, height - BOTTOM + 4), f"step {steps[column]}", "black", font, anchor=anchor)
    note = "white: zero, or no gradient; vermilion: not finite"
    pen.text((left, height - BOTTOM + 22), note, "#666666", font)
    return _image(image)


def draw_histogram(norms: Sequence[float], limit: float | None) -> Image:
    """Draws how often norms before clipping occurred, on a logarithmic scale, with the threshold.

    limit: the threshold that they are compared with; None without one.
    """
    height = TOP + CHART + BOTTOM
    image, pen, font = _canvas(height)
    values = np.asarray(norms, np.float64)
    values = values[np.isfinite(values) & (values > 0)]
    shown = [*values.tolist(), *([limit] if limit is not None and 0 < limit < math.inf else [])]
    low, high = decades(shown)
    left, right, base = 4 * MARGIN, WIDTH - MARGIN, TOP + CHART
    counts, edges = np.histogram(np.log10(values), BINS, (low, high))
    most = max(int(counts.max()), 1)
    pen.text((MARGIN, 6), f"norms before clipping at {len(values)} logged steps", "black", font)

    def x_of(exponent: float) -> float:
        return left + (exponent - low) / (high - low) * (right - left)

    for decade in range(low, high + 1, 1 + (high - low) // 14):
        pen.line([(x_of(decade), TOP), (x_of(decade), base)], "#DDDDDD")
        pen.text((x_of(decade), base + 6), f"1e{decade}", "black", font, anchor="ma")
    for count, start, end in zip(counts.tolist(), edges[:-1], edges[1:], strict=True):
        if count:
            pen.rectangle((x_of(start), base - CHART * 0.9 * count / most, x_of(end) - 1, base), BEFORE_COLOR)
    pen.text((left - 4, base - CHART * 0.9), str(most), "black", font, anchor="rm")
    pen.line([(left, base), (right, base)], "black")
    if limit is not None and 0 < limit < math.inf:
        x, above = x_of(math.log10(limit)), float((values > limit).mean()) if len(values) else 0.0
        pen.line([(x, TOP - 4), (x, base)], AFTER_COLOR, 3)
        label = f"threshold {limit:.3g}: {100 * above:.1f} % above it"
        pen.text((WIDTH - MARGIN, 6), label, AFTER_COLOR, font, anchor="ra")
    return _image(image)


def color_of(norm: float, low: int, high: int) -> str:
    """The color of a norm on the scale from 10 to the `low` to 10 to the `high`."""
    if norm == 0:
        return ZERO_COLOR
    if not 0 < norm < math.inf:
        return BAD_COLOR
    position = min(max((math.log10(norm) - low) / (high - low), 0.0), 1.0) * (len(SCALE) - 1)
    index = min(int(position), len(SCALE) - 2)
    color = SCALE[index] + (position - index) * (SCALE[index + 1] - SCALE[index])
    return "#" + "".join(f"{round(part):02x}" for part in color.tolist())


def by_module(norms: Mapping[str, Norms]) -> dict[str, Norms]:
    """Combines the norms of each module's parameters, at the deepest level with at most MAX_ROWS modules."""
    depth = max(name.count(".") for name in norms)
    grouped: dict[str, Norms] = {}
    while depth > 0:
        grouped = {}
        for name, row in norms.items():
            key = ".".join(name.split(".")[:depth])
            grouped[key] = np.hypot(grouped[key], row) if key in grouped else row
        if len(grouped) <= MAX_ROWS:
            return grouped
        depth -= 1
    return dict(list((grouped or norms).items())[:MAX_ROWS])


def decades(norms: Sequence[float]) -> tuple[int, int]:
    """The exponents of the powers of ten that enclose all positive, finite norms, at least one decade apart."""
    logs = [math.log10(norm) for norm in norms if 0 < norm < math.inf] or [0.0]
    low = math.floor(min(logs))
    return low, max(math.ceil(max(logs)), low + 1)


def _canvas(height: int) -> "tuple[PillowImage, ImageDraw.ImageDraw, ImageFont.FreeTypeFont | ImageFont.ImageFont]":
    import PIL.Image
    from PIL import ImageDraw, ImageFont

    image = PIL.Image.new("RGB", (WIDTH, height), "white")
    font = ImageFont.load_default(13)
    return image, ImageDraw.Draw(image), font


def _color_bar(
    pen: "ImageDraw.ImageDraw", font: "ImageFont.FreeTypeFont | ImageFont.ImageFont", low: int, high: int
) -> None:
    """Draws the scale of colors, with its decades, at the top right."""
    left, width = WIDTH - 320, 300
    for offset in range(width):
        norm = 10.0 ** (low + (high - low) * offset / (width - 1))
        pen.line([(left + offset, 8), (left + offset, 20)], color_of(norm, low, high))
    for decade in range(low, high + 1, 1 + (high - low) // 6):
        x = left + width * (decade - low) / (high - low)
        pen.text((x, 24), f"1e{decade}", "black", font, anchor="ma")


def _image(image: "PillowImage") -> Image:
    buffer = io.BytesIO()
    image.quantize(128).save(buffer, "PNG")
    return Image(buffer.getvalue(), image.width, image.height)
