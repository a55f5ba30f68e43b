"""The gradient-flow plot: every parameter's norm before and after clipping, on one logarithmic axis.

Drawn with Pillow, which TensorBoard installs: importing matplotlib would add a second to the start of a run.
"""

import io
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

WIDTH, ROW, TOP, BOTTOM, MARGIN = 900, 20, 46, 30, 14  # pixels; ROW is the height of one row
MAX_ROWS = 60  # with more parameters, the plot shows modules
BEFORE_COLOR, AFTER_COLOR = "#0072B2", "#D55E00"  # Okabe and Ito's blue and vermilion


class Image(NamedTuple):
    """An image as PNG, and its size in pixels."""

    png: bytes
    width: int
    height: int


def draw(step: int, norms: Mapping[str, tuple[float, float]]) -> Image:
    """Draws the plot of a step. norms: (before, after) by parameter, from top to bottom; 0 without a gradient."""
    import PIL.Image
    from PIL import ImageDraw, ImageFont

    rows = norms if len(norms) <= MAX_ROWS else by_module(norms)
    font = ImageFont.load_default(13)
    left = MARGIN + int(max((font.getlength(name) for name in rows), default=0)) + MARGIN
    height = TOP + ROW * max(len(rows), 1) + BOTTOM
    image = PIL.Image.new("RGB", (WIDTH, height), "white")
    pen = ImageDraw.Draw(image)
    pen.text((MARGIN, 6), f"2-norm of each gradient at step {step}", "black", font)
    _legend(pen, font)
    low, high = decades([norm for pair in rows.values() for norm in pair])

    def x_of(norm: float) -> float:
        return left + (math.log10(norm) - low) / (high - low) * (WIDTH - MARGIN - 8 - left)

    for decade in range(low, high + 1, 1 + (high - low) // 14):
        x = x_of(10.0**decade)
        pen.line([(x, TOP), (x, height - BOTTOM)], "#DDDDDD")
        pen.text((x, height - BOTTOM + 6), f"1e{decade}", "black", font, anchor="ma")
    for index, (name, pair) in enumerate(rows.items()):
        middle = TOP + ROW * index + ROW // 2
        pen.text((left - MARGIN, middle), name, "black", font, anchor="rm")
        before, after = (x_of(norm) if 0 < norm < math.inf else None for norm in pair)
        if before is None:
            note = "no gradient" if pair[0] == 0 else "not finite"
            pen.text((left + 4, middle), note, "#666666", font, anchor="lm")
            continue
        if after is not None:
            pen.line([(before, middle), (after, middle)], "#999999", 2)
        pen.ellipse([(before - 6, middle - 6), (before + 6, middle + 6)], outline=BEFORE_COLOR, width=2)
        if after is not None:
            pen.ellipse([(after - 3, middle - 3), (after + 3, middle + 3)], fill=AFTER_COLOR)
    buffer = io.BytesIO()
    image.quantize(64).save(buffer, "PNG")
    return Image(buffer.getvalue(), WIDTH, height)


def by_module(norms: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Combines the norms of each module's parameters, at the deepest level with at most MAX_ROWS modules."""
    depth = max(name.count(".") for name in norms)
    grouped: dict[str, tuple[float, float]] = {}
    while depth > 0:
        grouped = {}
        for name, (before, after) in norms.items():
            key = ".".join(name.split(".")[:depth])
            sums = grouped.get(key, (0.0, 0.0))
            grouped[key] = (math.hypot(sums[0], before), math.hypot(sums[1], after))
        if len(grouped) <= MAX_ROWS:
            return grouped
        depth -= 1
    return dict(list((grouped or norms).items())[:MAX_ROWS])


def decades(norms: list[float]) -> tuple[int, int]:
    """The exponents of the powers of ten that enclose all positive, finite norms, at least one decade apart."""
    logs = [math.log10(norm) for norm in norms if 0 < norm < math.inf] or [0.0]
    low = math.floor(min(logs))
    return low, max(math.ceil(max(logs)), low + 1)


def _legend(pen: "ImageDraw.ImageDraw", font: "ImageFont.ImageFont | ImageFont.FreeTypeFont") -> None:
    """Draws the legend: a ring for before and a dot for after, which differ in shape as well as in color."""
    pen.ellipse([(MARGIN, 28), (MARGIN + 12, 40)], outline=BEFORE_COLOR, width=2)
    pen.text((MARGIN + 18, 26), "before clipping", BEFORE_COLOR, font)
    pen.ellipse([(MARGIN + 143, 31), (MARGIN + 149, 37)], fill=AFTER_COLOR)
    pen.text((MARGIN + 155, 26), "after clipping", AFTER_COLOR, font)
