"""Measured pages: prose is written by hand, what a script measures stands between two marks. Needs nothing but Python.

A section begins with the line `<!-- name -->` and ends with the line `<!-- end of name -->`.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent / "docs"
COLOURS = ("#0072B2", "#E69F00", "#000000", "#009E73", "#D55E00")  # Okabe and Ito's, safe for colour-blind readers
MARKERS = ("o", "s", "^", "D", "v")


def parser(description: str | None, page: Path) -> argparse.ArgumentParser:
    """The arguments of a script that writes sections of a page. description: the script's docstring."""
    found = argparse.ArgumentParser(description=(description or "").split("\n", 1)[0])
    found.add_argument("--page", type=Path, default=page, help="the page whose measured sections are replaced")
    return found


def write(page: Path, sections: Mapping[str, str]) -> None:
    """Puts sections into a page by their names, and prints them. Raises ValueError where the page has no such marks."""
    text = page.read_text(encoding="utf-8")
    for name, content in sections.items():
        text = replace(text, name, content)
    page.write_text(text, encoding="utf-8")
    print("\n\n".join(sections.values()))


def replace(text: str, name: str, content: str) -> str:
    """A page's text with other content in one section; raises ValueError unless the section's marks are there once."""
    pattern = _pattern(name)
    if len(pattern.findall(text)) != 1:
        raise ValueError(f"the page needs the marks <!-- {name} --> and <!-- end of {name} -->, once")
    return pattern.sub(lambda found: f"{found[1]}{content}\n{found[3]}", text)


def content(text: str, name: str) -> str:
    """What stands between a section's marks; raises ValueError where there are none."""
    found = _pattern(name).search(text)
    if found is None:
        raise ValueError(f"the page has no section {name}")
    return found[2].rstrip("\n")


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"^(<!-- {name} -->\n)(.*?)(<!-- end of {name} -->)$", re.DOTALL | re.MULTILINE)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cells(section: str) -> list[list[str]]:
    """The rows of all tables in a section, without their heads."""
    lines = [line for line in section.splitlines() if line.startswith("|")]
    rules = {number for number, line in enumerate(lines) if line.startswith(("| ---", "|---"))}
    rows = [line for number, line in enumerate(lines) if number not in rules and number + 1 not in rules]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def pyplot() -> Any:
    """matplotlib's pyplot, drawing without a window."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
