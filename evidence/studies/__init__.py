"""The studies behind docs/gradients.md: each measures, makes its tables and draws its picture."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from evidence.studies import depth, line_120, log_cost, threshold, through_time
from runner.compose import Composer


class Study(NamedTuple):
    """measure: from a composer and the folder of its configurations; page and draw: from what that found.

    draw is None where there is nothing to see.
    """

    measure: Callable[[Composer, Path], Any]
    page: Callable[[Any], str]
    draw: Callable[[Any, Any], Any] | None


STUDIES = {
    "line_120": Study(lambda composer, folder: line_120.measure(composer), line_120.page, line_120.draw),
    "depth": Study(lambda composer, folder: depth.measure(composer), depth.page, depth.draw),
    "through_time": Study(through_time.measure, through_time.page, through_time.draw),
    "log_cost": Study(lambda composer, folder: log_cost.measure(composer), log_cost.page, None),
    "threshold": Study(threshold.measure, threshold.page, threshold.draw),
}
