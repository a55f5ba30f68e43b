"""Prints the versions of gradclip and torch, and the table of policies: python -m gradclip."""

import inspect
from importlib import metadata

from gradclip import Policy, __version__
from gradclip.policies import BlockPolicy


def rows() -> list[tuple[str, str, str, str]]:
    """The name, class, scopes and summary of every policy, with a heading."""
    found = [("policy", "class", "scopes", "what it does")]
    for name, policy in sorted(Policy.options.items()):
        scopes = policy.scopes if issubclass(policy, BlockPolicy) else ("those of its links",)
        summary = inspect.getdoc(policy) or ""
        found.append((name, policy.__name__, ", ".join(scopes), " ".join(summary.partition("\n\n")[0].split())))
    return found


def main() -> None:
    """Prints versions and table."""
    try:
        torch = metadata.version("torch")
    except metadata.PackageNotFoundError:
        torch = "not installed; clipping needs it"
    print(f"gradclip {__version__}\ntorch {torch}\n")
    table = rows()
    widths = [max(len(row[column]) for row in table) for column in range(3)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3], sep="  ")


if __name__ == "__main__":
    main()
