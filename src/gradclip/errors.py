"""What can go wrong, each with its own name. None of these needs torch."""

from collections.abc import Sequence
from typing import Any


class InvalidField(ValueError):
    """A dataclass field holds a value that it does not allow.

    `key` is the field's name (dotted once a caller has put the path before it), `value` what it
    held, `allowed` what it may hold, in words. An empty `key` marks two fields that do not agree.
    """

    def __init__(self, key: str, value: Any, allowed: str):
        self.key, self.value, self.allowed = key, value, allowed
        super().__init__(f"{key}={format_value(value)}: must be {allowed}" if key else allowed)


class UnmatchedPatternError(ValueError):
    """An include or exclude pattern matches no parameter; the message lists the names there are."""

    def __init__(self, field: str, pattern: str, names: Sequence[str]):
        self.field, self.pattern, self.names = field, pattern, list(names)
        shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
        super().__init__(f"{field}: the pattern {pattern!r} matches no parameter; there are {shown}")


class NonFiniteGradientError(ArithmeticError):
    """A gradient is nan or infinite and the policy says `nonfinite=error`.

    `names` holds the bad parameters of this process; `step` the number of the `clip()` that found them, from 1,
    where they are reported later than that.
    """

    def __init__(self, names: Sequence[str], step: int | None = None):
        self.names, self.step = list(names), step
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        found = ", ".join(names[:3]) + more if names else "a parameter of another process"
        super().__init__(f"non-finite gradient in {found}" + ("" if step is None else f" at step {step}"))


class ClipCheckError(RuntimeError):
    """The gradients before the optimizer's step are not those that `clip()` left and reported."""


def format_value(value: Any) -> str:
    """A value as it is written on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(format_value(each) for each in value)}]"
    return str(value)
