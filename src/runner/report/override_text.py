"""A value of a configuration as an override on a command line."""

from typing import Any

from runner.errors import quote_override


def override_key(key: str) -> str:
    """The key of the override that sets a column: for the name of an option that of its group, and where it is."""
    group, dot, _ = key.removesuffix(".name").partition(".")
    if not key.endswith(".name"):
        return key
    return f"{group}@{key.removesuffix('.name')}" if dot else group


def format_override_value(value: Any) -> str:
    """Formats a value so that Hydra's override grammar reads the same value back."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(format_override_value, value))}]"
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return quote_override(str(value))
