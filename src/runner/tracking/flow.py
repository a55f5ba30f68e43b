"""The gradient-flow picture: every parameter's norm before and after clipping, on one logarithmic axis.

Drawn with Pillow, which TensorBoard brings along: matplotlib would cost a run a second at its start.
"""

import io
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

WIDTH, ROW, TOP, BOTTOM, MARGIN = 900, 20, 46, 30, 14
MOST = 60  # rows; of more parameters the picture shows the modules
BEFORE, AFTER = "#0072B2", "#D55E00"  # Okabe and Ito's blue and vermilion


class Picture(NamedTuple):
    """A PNG and its size in pixels."""

    png: bytes
    width: int
    height: int


def draw(step: int, norms: Mapping[str, tuple[float, float]]) -> Picture:
    """By parameter, in the model's order, top to bottom: (norm before, norm after); 0 where there was no gradient."""
    from PIL import Image, ImageDraw, ImageFont

    rows = norms if len(norms) <= MOST else by_module(norms)
    font = ImageFont.load_default(13)
    left = MARGIN + int(max((font.getlength(name) for name in rows), default=0)) + MARGIN
    height = TOP + ROW * max(len(rows), 1) + BOTTOM
    image = Image.new("RGB", (WIDTH, height), "white")
    pen = ImageDraw.Draw(image)
    pen.text((MARGIN, 6), f"2-norm of each gradient at step {step}", "black", font)
    _legend(pen, font)
    low, high = decades([norm for pair in rows.values() for norm in pair])

    def across(norm: float) -> float:
        return left + (math.log10(norm) - low) / (high - low) * (WIDTH - MARGIN - 8 - left)

    for decade in range(low, high + 1, 1 + (high - low) // 14):
        x = across(10.0**decade)
        pen.line([(x, TOP), (x, height - BOTTOM)], "#DDDDDD")
        pen.text((x, height - BOTTOM + 6), f"1e{decade}", "black", font, anchor="ma")
    for number, (name, pair) in enumerate(rows.items()):
        middle = TOP + ROW * number + ROW // 2
        pen.text((left - MARGIN, middle), name, "black", font, anchor="rm")
        before, after = (across(norm) if 0 < norm < math.inf else None for norm in pair)
        if before is None:
            word = "no gradient" if pair[0] == 0 else "not finite"
            pen.text((left + 4, middle), word, "#666666", font, anchor="lm")
            continue
        if after is not None:
            pen.line([(before, middle), (after, middle)], "#999999", 2)
        pen.ellipse([(before - 6, middle - 6), (before + 6, middle + 6)], outline=BEFORE, width=2)
        if after is not None:
            pen.ellipse([(after - 3, middle - 3), (after + 3, middle + 3)], fill=AFTER)
    buffer = io.BytesIO()
    image.quantize(64).save(buffer, "PNG")
    return Picture(buffer.getvalue(), WIDTH, height)


def by_module(norms: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """The norms of all gradients below each module: as deep as the names go while there are at most MOST of them."""
    depth = max(name.count(".") for name in norms)
    grouped: dict[str, tuple[float, float]] = {}
    while depth > 0:
        grouped = {}
        for name, (before, after) in norms.items():
            key = ".".join(name.split(".")[:depth])
            sums = grouped.get(key, (0.0, 0.0))
            grouped[key] = (math.hypot(sums[0], before), math.hypot(sums[1], after))
        if len(grouped) <= MOST:
            return grouped
        depth -= 1
    return dict(list((grouped or norms).items())[:MOST])


def decades(norms: list[float]) -> tuple[int, int]:
    """The powers of ten around all norms that a logarithm has, at least one apart."""
    logs = [math.log10(norm) for norm in norms if 0 < norm < math.inf] or [0.0]
    low = math.floor(min(logs))
    return low, max(math.ceil(max(logs)), low + 1)


def _legend(pen: "ImageDraw.ImageDraw", font: "ImageFont.ImageFont | ImageFont.FreeTypeFont") -> None:
    """A ring for before and a dot for after, so that they are told apart without their colours."""
    pen.ellipse([(MARGIN, 28), (MARGIN + 12, 40)], outline=BEFORE, width=2)
    pen.text((MARGIN + 18, 26), "before clipping", BEFORE, font)
    pen.ellipse([(MARGIN + 143, 31), (MARGIN + 149, 37)], fill=AFTER)
    pen.text((MARGIN + 155, 26), "after", AFTER, font)
