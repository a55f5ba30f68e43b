"""Labels of a logarithmic axis as plain numbers. Imports matplotlib, which is optional."""

from matplotlib.ticker import LogFormatter


class PlainTicks(LogFormatter):
    """Labels the ticks that matplotlib chooses with numbers such as 0.5, in place of 5 times a power of ten."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""
