"""Relative links in the README, docs/ and evidence/ lead to files, and every page and picture is linked."""

import re
from pathlib import Path

import pytest

from evidence.checkout import files
from tests.support import ROOT

TRACKED = files()
PAGES = [path for path in TRACKED if path.suffix == ".md" and path.parts[0] in ("README.md", "docs", "evidence")]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_to_files(page: Path) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("https://", "http://", "#")):
            assert (ROOT / page.parent / target.partition("#")[0]).exists(), target


def test_every_page_and_picture_is_linked() -> None:
    linked = {
        (ROOT / page.parent / target.partition("#")[0]).resolve()
        for page in PAGES
        for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    }
    for path in TRACKED:
        if path.suffix in (".png", ".md") and path.parts[0] in ("docs", "evidence") and path.name != "README.md":
            assert ROOT / path in linked, path
