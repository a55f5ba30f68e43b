"""The library's README: every Python block runs, and the first prints what the page shows."""

import contextlib
import io
import re

import pytest

from gradclip import Policy
from tests.support import ROOT

PAGE = (ROOT / "src" / "gradclip" / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
NUMBER = r"\d+\.?\d*"


@pytest.fixture(autouse=True)
def own_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgets the policies that a block defines."""
    monkeypatch.setattr(Policy, "options", dict(Policy.options))


def output_of(code: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    return printed.getvalue()


@pytest.mark.parametrize("code", BLOCKS, ids=[f"block {number}" for number in range(len(BLOCKS))])
def test_every_block_runs(code: str) -> None:
    output_of(code)


def test_the_first_block_prints_what_the_page_shows() -> None:
    shown = re.search(r"^```text\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert shown is not None
    printed = output_of(BLOCKS[0])
    assert re.sub(NUMBER, "#", printed) == re.sub(NUMBER, "#", shown[1])
    # The last digits depend on the CPU.
    numbers = [[float(number) for number in re.findall(NUMBER, text)] for text in (printed, shown[1])]
    assert numbers[0] == pytest.approx(numbers[1], rel=5e-3)
