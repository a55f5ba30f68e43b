"""The studies of evidence/docs/gradients.md: each measures, makes its tables and draws its plot."""

from collections.abc import Callable
from typing import Any, NamedTuple

from evidence.studies import depth, line_120, log_cost, threshold, through_time


class Study(NamedTuple):
    """A study. measure: makes the results. page: formats them in Markdown. draw: plots them with pyplot, or None."""

    measure: Callable[[], Any]
    page: Callable[[Any], str]
    draw: Callable[[Any, Any], Any] | None


STUDIES = {
    "line_120": Study(line_120.measure, line_120.page, line_120.draw),
    "depth": Study(depth.measure, depth.page, depth.draw),
    "through_time": Study(through_time.measure, through_time.page, through_time.draw),
    "log_cost": Study(log_cost.measure, log_cost.page, None),
    "threshold": Study(threshold.measure, threshold.page, threshold.draw),
}
