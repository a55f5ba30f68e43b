"""The names of the scalars that a run logs, and the layout of TensorBoard's charts of them. Imports no torch."""

import json
import math
from functools import cache
from typing import Any

TRAIN_LOSS, VALIDATION_LOSS = "loss/train", "loss/val"
METRIC_PREFIX = "metric/"  # precedes the name of each metric of an evaluation
OBJECTIVE = "best/objective"  # sorts first of all tags, so that HParams shows it beside the swept keys
NORM_BEFORE, NORM_AFTER = "grad_norm/before", "grad_norm/after"
PARAMETER_BEFORE, PARAMETER_AFTER = "grad_norm_before/", "grad_norm_after/"  # precede the name of a parameter
CLIP_LIMIT, CLIP_FRACTION, CLIP_SCALE = "clip/limit", "clip/fraction", "clip/scale"
SPIKE_SCORES = {"spike_score/loss": TRAIN_LOSS, "spike_score/grad_norm": NORM_BEFORE}  # each with what it judges
CLIP_COST = "clip/cost"  # at the end of a run in which no step was limited: clipping's share of the time of a step
CLIPPING = "clipping"  # the text on what clipping did
LR, STEPS_PER_SECOND, DROPPED = "lr", "steps_per_second", "dropped"
WEIGHT_NORM, UPDATE_RATIO = "weight_norm", "update_ratio"
# The tags of every logged step.
STEP_TAGS = (TRAIN_LOSS, NORM_BEFORE, NORM_AFTER, CLIP_LIMIT, CLIP_FRACTION, CLIP_SCALE, LR, STEPS_PER_SECOND, DROPPED)

LAYOUT = {
    "gradient clipping": {
        "norm before and after": ["Multiline", ["^grad_norm/(before|after)$"]],
        "limit": ["Multiline", ["^clip/limit$"]],
        "share of blocks limited": ["Multiline", ["^clip/fraction$"]],
        "norm removed by clipping": ["Margin", [NORM_AFTER, NORM_AFTER, NORM_BEFORE]],
    },
    "loss": {"training and validation": ["Multiline", ["^loss/(train|val)$"]]},
}


@cache
def step_with_parameters(names: tuple[str, ...]) -> tuple[str, ...]:
    """The tags of a step that logs every parameter: first all norms before clipping, then all norms after."""
    norms = (f"{prefix}{name}" for prefix in (PARAMETER_BEFORE, PARAMETER_AFTER) for name in names)
    return (*STEP_TAGS, WEIGHT_NORM, UPDATE_RATIO, *norms)


def hparam_value(value: Any) -> str | float:
    """Converts a swept value to a type that the HParams table takes: a finite number, or text."""
    if isinstance(value, str):
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if is_number else json.dumps(value)
