"""To which policies an advised threshold of clip=norm applies, and what a run's own policy has in its place."""

import dataclasses

from runner.report.settings import Settings

# What `grad_norm/before` measures, and what an advised threshold is therefore compared with.
MEASURED = {"scope": "model", "norm_type": 2.0}
ADVISED = "the advice is for clip=norm with clip.scope=model and clip.norm_type=2"


def misfit(settings: Settings) -> str | None:
    """Says which `max` or other values the advice does not determine; None if the run's threshold is what it advises.

    Every policy but `none` and `norm` has another meaning of `max`, or no `max`, which its schema says.
    """
    clip = f"clip={settings.policy}"
    if settings.policy in (None, "none"):
        return None
    if settings.policy == "norm":
        others = [f"clip.{key}={settings.clip[key]}" for key in _differing(settings)]
        return (
            f"{ADVISED}, and the run's clip.max is compared with other norms: {', '.join(others)}" if others else None
        )
    if settings.sets_own_limit:
        return f"{ADVISED}, and does not say which values {clip} needs, which sets its limit by itself"
    meaning = _meaning(settings)
    if meaning is None:
        return f"{ADVISED}, and does not say which values {clip} needs"
    return f"{ADVISED}, and does not say which clip.max {clip} needs, which is {meaning}"


def resets(settings: Settings) -> list[str]:
    """Overrides that undo what a run, or its experiment, sets of clip=norm besides its threshold."""
    values = MEASURED | {"include": [], "exclude": []}
    return [f"clip.{key}={value:g}" if isinstance(value, float) else f"clip.{key}={value}"
            for key, value in values.items() if key in _differing(settings)]  # fmt: skip


def _differing(settings: Settings) -> list[str]:
    """The keys by which other gradients, or another norm of them, are measured than by `grad_norm/before`."""
    measured = [key for key, value in MEASURED.items() if settings.clip.get(key, value) != value]
    return measured + [key for key in ("include", "exclude") if settings.clip.get(key)]


def _meaning(settings: Settings) -> str | None:
    """The help of the policy's `max`; None for a policy without one."""
    fields = {each.name: each for each in dataclasses.fields(settings.schema)} if settings.schema else {}
    return fields["max"].metadata["help"] if "max" in fields else None
