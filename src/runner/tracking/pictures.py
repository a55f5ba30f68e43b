"""Pictures for TensorBoard: the norm of every parameter's gradient over the steps, and a histogram of all norms.

Drawn with Pillow, which TensorBoard installs: importing matplotlib would add a second to the start of a run.
"""

import io
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont
    from PIL.Image import Image as PillowImage

WIDTH, ROW, TOP, BOTTOM, MARGIN = 900, 20, 46, 46, 14  # pixels; ROW is the height of one row
MAX_ROWS, FEW_ROWS = 60, 15  # with more parameters, a picture shows modules, if they are not too few
MAX_NAME = WIDTH * 4 // 10  # pixels of a name; the middle of a longer one is left out
MAX_DECADE = 308  # of a float
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

    norms: by parameter, from top to bottom, one at each step; 0 without a gradient. Of more than MAX_ROWS parameters,
    the norms of modules or of neighboring parameters are drawn together.
    """
    rows = {name: np.asarray(row, np.float64) for name, row in norms.items()}
    what = "each gradient"
    if len(rows) > MAX_ROWS:
        rows, what = combine(rows), f"the gradients of {len(rows)} parameters, combined"
    low, high = decades([norm for row in rows.values() for norm in row.tolist()])
    height = TOP + ROW * max(len(rows), 1) + BOTTOM
    image, pen, font = _canvas(height)
    names = [_shortened(name, font) for name in rows]
    left = MARGIN + int(max(map(font.getlength, names), default=0)) + MARGIN
    right = WIDTH - MARGIN
    pen.text((MARGIN, 6), f"2-norm of {what}", "black", font)
    pen.text((MARGIN, 24), f"before clipping, steps {steps[0]} to {steps[-1]}", "black", font)
    _color_bar(pen, font, low, high)
    columns = np.linspace(left, right, len(steps) + 1)
    for index, (name, row) in enumerate(zip(names, rows.values(), strict=True)):
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


def draw_histogram(norms: Sequence[float], limit: float | None, clipped: float = 0.0) -> Image:
    """Draws how often norms before clipping occurred, on a logarithmic scale, with the threshold of the latest step.

    limit: the threshold that they are compared with; None without one. clipped: the share of steps that were limited,
    which the threshold alone does not tell where it changes.
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
    left_out = f"; {len(norms) - len(values)} more are 0 or not finite" if len(values) < len(norms) else ""
    pen.text((MARGIN, 6), f"norms before clipping at {len(values)} logged steps{left_out}", "black", font)

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
        x = x_of(math.log10(limit))
        pen.line([(x, TOP - 4), (x, base)], AFTER_COLOR, 3)
        label = f"latest threshold {limit:.3g}; {100 * clipped:.1f} % of the steps were clipped"
        pen.text((WIDTH - MARGIN, 24), label, AFTER_COLOR, font, anchor="ra")
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


def combine(norms: Mapping[str, Norms]) -> dict[str, Norms]:
    """Combines the norms of each module's parameters, at the deepest level with at most MAX_ROWS modules.

    Where that level has fewer than FEW_ROWS modules, neighbors of the level below are combined instead.
    """
    below = dict(norms)
    for depth in range(max(name.count(".") for name in norms), 0, -1):
        grouped = _by_module(norms, depth)
        if len(grouped) <= MAX_ROWS:
            if len(grouped) >= FEW_ROWS:
                return grouped
            break
        below = grouped
    return _by_neighbors(below)


def _by_module(norms: Mapping[str, Norms], depth: int) -> dict[str, Norms]:
    """Combines the norms of all parameters whose names begin with the same `depth` parts."""
    grouped: dict[str, Norms] = {}
    for name, row in norms.items():
        key = ".".join(name.split(".")[:depth])
        grouped[key] = np.hypot(grouped[key], row) if key in grouped else row
    return grouped


def _by_neighbors(norms: Mapping[str, Norms]) -> dict[str, Norms]:
    """Combines as many neighbors as make at most MAX_ROWS rows of all."""
    names, count = list(norms), math.ceil(len(norms) / MAX_ROWS)
    chunks = [names[start : start + count] for start in range(0, len(names), count)]
    return {
        f"{chunk[0]} to {chunk[-1]}" if len(chunk) > 1 else chunk[0]: np.sqrt(sum(norms[name] ** 2 for name in chunk))
        for chunk in chunks
    }


def decades(norms: Sequence[float]) -> tuple[int, int]:
    """The exponents of the powers of ten that enclose all positive, finite norms, at least one decade apart."""
    logs = [math.log10(norm) for norm in norms if 0 < norm < math.inf] or [0.0]
    low = min(math.floor(min(logs)), MAX_DECADE - 1)
    return low, min(max(math.ceil(max(logs)), low + 1), MAX_DECADE)


def _shortened(name: str, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont") -> str:
    """The name, without its middle if it is longer than MAX_NAME."""
    if font.getlength(name) <= MAX_NAME:
        return name
    kept = len(name) // 2
    while kept > 1 and font.getlength(f"{name[:kept]}…{name[-kept:]}") > MAX_NAME:
        kept -= 1
    return f"{name[:kept]}…{name[-kept:]}"


@cache
def _palette() -> list[int]:
    """The colors of a picture, as their red, green and blue values in a row: a file with 256 colors is small.

    They are given, since a palette that is made from the picture loses rare colors, such as that of a single nan.
    """
    shades = np.array([*range(0, 240, 8), 255])[:, None] * np.ones(3)  # of grey, for text and lines
    scale = np.stack([np.interp(np.linspace(0, 4, 96), range(5), SCALE[:, channel]) for channel in range(3)], 1)
    tints = []  # of text and bars, whose edges are blended with the white background
    for color in (BEFORE_COLOR, AFTER_COLOR):
        rgb = np.array([int(color[index : index + 2], 16) for index in (1, 3, 5)])
        tints.append(rgb + np.linspace(0, 0.95, 30)[:, None] * (255 - rgb))
    colors: list[int] = np.concatenate([shades, scale, *tints]).round().astype(int).ravel().tolist()
    return colors


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
    import PIL.Image

    palette = PIL.Image.new("P", (1, 1))
    palette.putpalette(_palette())
    buffer = io.BytesIO()
    image.quantize(palette=palette, dither=PIL.Image.Dither.NONE).save(buffer, "PNG")
    return Image(buffer.getvalue(), image.width, image.height)
