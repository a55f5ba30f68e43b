"""A few of each of the faults that evidence/fault_injection.py counts by the hundred."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from evidence import fault_injection
from evidence.faults import Tally, damage, disk, folders, foreign, fuzz, kills, nonfinite
from tests.support import ROOT


@pytest.mark.parametrize(
    ("inject", "counts", "least"),
    [
        (kills.sigkill, (2, 100), 2),
        (kills.asked, (1, 400), 3),
        (kills.sigint_twice, (1,), 1),
        (damage.damaged, (20, 60, 3), 83),
        (disk.full, (1, 0, 1), 2),
        (nonfinite.injected, (1,), 24),
        (folders.shared, (1, 1), 2),
        (foreign.foreign, (3,), 30),
        (fuzz.fuzzed, (30,), 30),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_nothing_is_lost(tmp_path: Path, inject: Callable[..., Tally], counts: tuple[int, ...], least: int) -> None:
    tally = inject(tmp_path, *counts)
    assert tally.lost == []
    assert tally.tried >= least


def test_the_fuzzer_reaches_both_sides() -> None:
    """Or it would only count how much is refused."""
    assert fuzz.one(["model=mlp", "data=digits", "clip=agc", "optimizer=adam"]) == ("built", "")
    assert fuzz.one(["clip=agc", "clip.ratio=-1"]) == ("refused", "")
    assert fuzz.one(["clip=agc", "model=mlp", "data=digits", "model.hidden=[9999999]"])[0].startswith("composed")


def test_a_loss_is_counted_and_named() -> None:
    tally = Tally("a fault", "this")
    tally.count(True, "one")
    tally.count(False, "another")
    tally.notes["of some kind"] += 2
    assert tally.row() == "| a fault; 2 of some kind | 2 | 1 | 1 | this |"
    first = fault_injection.page({"kill": tally, "fuzz": Tally("b", "c")})
    assert "| kill | a fault; 2 of some kind | 2 | 1 | 1 | this |\n| fuzz | b | 0 | 0 | 0 | c |\n" in first
    assert "- kill: another\n" in first
    assert fault_injection.page({"fuzz": Tally("b", "c")}, first) == first  # what was not run stays
    assert "Nothing." in fault_injection.page({"kill": Tally("a fault", "this")}, first)


def test_the_page_is_what_the_script_writes() -> None:
    page = (ROOT / "evidence" / "docs" / "faults.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .*? \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| .*\|$", page, re.MULTILINE)
    counts = [tuple(int(number.replace(",", "")) for number in row) for row in rows]
    assert len(counts) == len(fault_injection.FAULTS)
    assert all(tried == survived + lost for tried, survived, lost in counts)
    assert ("Nothing." in page) == (sum(lost for *_, lost in counts) == 0)
