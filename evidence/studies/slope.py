"""The slope of norms on a logarithmic axis, which studies compare with the theory."""

import math
import statistics
from collections.abc import Sequence


def log_slope(xs: Sequence[float], norms: Sequence[float]) -> float:
    """Fits a line to the logarithms of norms by least squares, and returns its slope."""
    return statistics.linear_regression(xs, [math.log(norm) for norm in norms]).slope
