"""A few faults of each kind in evidence/fault_injection.py."""

from collections.abc import Callable
from pathlib import Path

import pytest

from evidence import fault_injection
from evidence.faults import Tally, damage, disk, folders, foreign, fuzz, kills, nonfinite, rejected
from evidence.pages import cells, content


@pytest.mark.parametrize(
    ("inject", "counts", "least"),
    [
        (kills.sigkill, (2, 100), 2),
        (kills.interrupted, (1, 400), 3),
        (kills.sigint_twice, (1,), 1),
        (damage.damaged, (20, 60, 3), 83),
        pytest.param(disk.full, (1, 0, 1), 2, marks=pytest.mark.slow),
        (nonfinite.injected, (1,), 24),
        (folders.shared, (1, 1), 2),
        (rejected.rejected, (1,), 3),
        (foreign.foreign, (3,), 30),
        (fuzz.fuzzed, (30,), 30),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_nothing_is_lost(tmp_path: Path, inject: Callable[..., Tally], counts: tuple[int, ...], least: int) -> None:
    tally = inject(tmp_path, *counts)
    assert tally.lost == []
    assert tally.tried >= least


def test_the_fuzzer_finds_accepted_and_refused_overrides() -> None:
    """If everything were refused, the fuzzer would test nothing else."""
    assert fuzz.one(["model=mlp", "data=digits", "clip=agc", "optimizer=adam"]) == ("built", "")
    assert fuzz.one(["clip=agc", "clip.ratio=-1"]) == ("refused", "")
    assert fuzz.one(["clip=agc", "model=mlp", "data=digits", "model.hidden=[9999999]"])[0].startswith("composed")


def test_a_loss_is_counted_and_named() -> None:
    tally = Tally("a fault", "this")
    tally.count(True, "one")
    tally.count(False, "another")
    tally.notes["of some kind"] += 2
    assert tally.cells() == ["a fault; 2 of some kind", "2", "1", "1", "this"]
    first = fault_injection.section({"kill": tally, "fuzz": Tally("b", "c")}, "")
    assert "| kill | a fault; 2 of some kind | 2 | 1 | 1 | this |\n| fuzz | b | 0 | 0 | 0 | c |\n" in first
    assert "- kill: another" in first
    assert fault_injection.section({"fuzz": Tally("b", "c")}, first) == first  # kinds that were not run keep their rows
    assert "Lost: nothing." in fault_injection.section({"kill": Tally("a fault", "this")}, first)


def test_the_pages_counts_add_up() -> None:
    section = content(fault_injection.PAGE.read_text(encoding="utf-8"), "faults")
    counts = {row[0]: [int(cell.replace(",", "")) for cell in row[-4:-1]] for row in cells(section)}
    assert counts.keys() == fault_injection.FAULTS.keys()
    assert all(tried == survived + lost for tried, survived, lost in counts.values())
    assert ("Lost: nothing." in section) == (sum(lost for *_, lost in counts.values()) == 0)
