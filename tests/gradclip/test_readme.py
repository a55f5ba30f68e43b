"""The library's README: every Python block runs, and the first prints what the page shows."""

import re
from pathlib import Path

import pytest

from tests.gradclip import blocks
from tests.support import ROOT

BLOCKS = blocks.titled()
NUMBER = r"\d+\.?\d*"
IN_PROCESSES = [title for title, code in BLOCKS.items() if blocks.PROCESSES.search(code)]


def test_the_blocks_are_found() -> None:
    assert len(BLOCKS) == len(blocks.BLOCKS) >= 14
    assert IN_PROCESSES == ["FSDP2", "Tensor parallelism", "A pipeline", "Expert parallelism"]


@pytest.mark.parametrize("title", BLOCKS)
def test_every_block_runs(title: str, tmp_path: Path) -> None:
    if absent := blocks.missing_packages(BLOCKS[title]):
        pytest.skip(f"not installed: {', '.join(absent)}; the extra `recipes` has it")
    printed = blocks.run(BLOCKS[title], tmp_path, path=str(ROOT / "src"))
    if title in IN_PROCESSES:  # the norms are the same on all processes
        assert printed[0] == printed[1]
        assert re.fullmatch(rf"gradient norm {NUMBER} -> 0\.1 \(1 of 1 blocks limited\)\n", printed[0])


def test_the_first_block_prints_what_the_page_shows(tmp_path: Path) -> None:
    shown = re.search(r"^```text\n(.*?)^```", blocks.PAGE, re.DOTALL | re.MULTILINE)
    assert shown is not None
    (printed,) = blocks.run(blocks.BLOCKS[0], tmp_path, path=str(ROOT / "src"))
    assert re.sub(NUMBER, "#", printed) == re.sub(NUMBER, "#", shown[1])
    # The last digits depend on the CPU.
    numbers = [[float(number) for number in re.findall(NUMBER, text)] for text in (printed, shown[1])]
    assert numbers[0] == pytest.approx(numbers[1], rel=5e-3)
