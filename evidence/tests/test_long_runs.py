"""The measurements of long runs, over a few steps."""

import re
import shutil
from pathlib import Path

from evidence import long_runs
from evidence.pages import cells, content


def bytes_a_step(text: str) -> int:
    found = re.search(r"(\d+) bytes a step", text)
    assert found is not None
    return int(found[1])


def test_the_page_of_long_runs(tmp_path: Path) -> None:
    page = Path(shutil.copy(long_runs.PAGE, tmp_path))
    shown = page.read_text(encoding="utf-8")
    long_runs.main(["--steps", "2000", "--page", str(page), "steps=30", "checkpoint.every=10"])
    measured = page.read_text(encoding="utf-8")
    assert bytes_a_step(measured) <= long_runs.BYTES
    assert abs(bytes_a_step(shown) / bytes_a_step(measured) - 1) < 0.25
    assert [row[0] for row in cells(content(measured, "memory"))][-1].startswith("growth")
    ((_, count, _, _),) = cells(content(measured, "checkpoints"))
    assert count == "4"  # of steps 10, 20, 30, and the best one
