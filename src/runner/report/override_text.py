"""A value of a configuration as an override on a command line."""

from typing import Any

from runner.errors import quote_override
from runner.report.rows import POLICY


def override_key(key: str) -> str:
    """The key of the override that sets a column: that of the group for the name of an option."""
    return "clip" if key == POLICY else key.removesuffix(".name")


def format_override_value(value: Any) -> str:
    """Formats a value so that Hydra's override grammar reads it back."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(format_override_value, value))}]"
    return f"{value:g}" if isinstance(value, float) else quote_override(str(value))
