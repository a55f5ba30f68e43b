"""Exceptions of the library, and how a value is written in their messages. Nothing here imports torch."""

from collections.abc import Sequence
from typing import Any


class InvalidField(ValueError):
    """A dataclass field holds a value that it does not allow.

    key: the field's name, dotted once a caller has put the path before it; empty for fields that contradict each other.
    value: what the field held. allowed: what it may hold, in words.
    """

    def __init__(self, key: str, value: Any, allowed: str):
        self.key, self.value, self.allowed = key, value, allowed
        super().__init__(f"{key}={format_value(value)}: must be {allowed}" if key else allowed)


class UnmatchedPatternError(ValueError):
    """A pattern matches no parameter; the message lists the parameters' names."""

    def __init__(self, field: str, pattern: str, names: Sequence[str]):
        self.field, self.pattern, self.names = field, pattern, list(names)
        shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
        super().__init__(f"{field}: the pattern {pattern!r} matches no parameter; there are {shown}")


class NonFiniteGradientError(ArithmeticError):
    """A gradient is nan or infinite and the policy has `nonfinite=error`.

    names: the parameters of this process whose gradients are not finite. step: the number of the call of `clip()` that
    found them, counted from 1; None where that call itself raises.
    """

    def __init__(self, names: Sequence[str], step: int | None = None):
        self.names, self.step = list(names), step
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        found = ", ".join(names[:3]) + more if names else "a parameter of another process"
        super().__init__(f"non-finite gradient in {found}" + ("" if step is None else f" at step {step}"))


class ClipCheckError(RuntimeError):
    """The gradients before the optimizer's step are not those that `clip()` left and reported."""


def format_value(value: Any) -> str:
    """Formats a value as it is written on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(format_value(item) for item in value)}]"
    return str(value)
