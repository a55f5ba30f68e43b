"""The slope of norms on a logarithmic axis, which a study compares with a law."""

import math
import statistics
from collections.abc import Sequence


def log_slope(xs: Sequence[float], norms: Sequence[float]) -> float:
    """The slope of the straight line through the logarithms of norms, by least squares."""
    return statistics.linear_regression(xs, [math.log(norm) for norm in norms]).slope
