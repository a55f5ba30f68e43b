"""Pages in Markdown with measured sections, which scripts replace; the rest is written by hand. Needs only Python.

A section starts with the line `<!-- name -->` and ends with the line `<!-- end of name -->`, its markers.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent / "docs"
COLOURS = ("#0072B2", "#E69F00", "#000000", "#009E73", "#D55E00")  # by Okabe and Ito, for colour-blind readers
MARKERS = ("o", "s", "^", "D", "v")


def parser(description: str | None, page: Path) -> argparse.ArgumentParser:
    """Makes the argument parser of a script that writes sections of a page. description: the script's docstring."""
    arguments = argparse.ArgumentParser(description=(description or "").split("\n", 1)[0])
    arguments.add_argument("--page", type=Path, default=page, help="the page whose measured sections are replaced")
    return arguments


def write(page: Path, sections: Mapping[str, str]) -> None:
    """Replaces sections of a page by name, and prints them. Raises ValueError if the page lacks their markers."""
    text = page.read_text(encoding="utf-8")
    for name, content in sections.items():
        text = replace(text, name, content)
    page.write_text(text, encoding="utf-8")
    print("\n\n".join(sections.values()))


def replace(text: str, name: str, content: str) -> str:
    """Replaces one section in a page's text; raises ValueError unless its markers are there exactly once."""
    pattern = _pattern(name)
    if len(pattern.findall(text)) != 1:
        raise ValueError(f"the page needs the markers <!-- {name} --> and <!-- end of {name} -->, once")
    return pattern.sub(lambda match: f"{match[1]}{content}\n{match[3]}", text)


def content(text: str, name: str) -> str:
    """The text between a section's markers; raises ValueError if there are none."""
    match = _pattern(name).search(text)
    if match is None:
        raise ValueError(f"the page has no section {name}")
    return match[2].rstrip("\n")


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"^(<!-- {name} -->\n)(.*?)(<!-- end of {name} -->)$", re.DOTALL | re.MULTILINE)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Formats a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cells(section: str) -> list[list[str]]:
    """The cells of all table rows in a section, without the header rows."""
    lines = [line for line in section.splitlines() if line.startswith("|")]
    rules = {number for number, line in enumerate(lines) if line.startswith(("| ---", "|---"))}
    rows = [line for number, line in enumerate(lines) if number not in rules and number + 1 not in rules]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def pyplot() -> Any:
    """Imports matplotlib's pyplot with a backend that needs no window."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
