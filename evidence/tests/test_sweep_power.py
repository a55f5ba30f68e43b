"""The page of simulated sweeps: its shares have the order that they must have, and follow from the script."""

import shutil
from pathlib import Path

import pytest

from evidence import sweep_power
from evidence.pages import cells, content


def shares(page: Path) -> dict[tuple[str, str], list[float]]:
    """The shares of claimed winners in percent, by configurations and seeds."""
    rows = cells(content(page.read_text(encoding="utf-8"), "power"))
    return {(row[0], row[1]): [float(cell.removesuffix(" %")) for cell in row[2:]] for row in rows}


def test_the_page_of_simulated_sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = shares(sweep_power.PAGE)
    assert all(found[0] <= 6.5 for found in shown.values())  # 5 %, three standard errors of 2000 sweeps above it
    assert shown["2", "5"][sweep_power.LEADS.index(3.0)] >= 80
    assert all(found[1:] == sorted(found[1:]) for found in shown.values())
    monkeypatch.setattr(sweep_power, "CONFIGURATIONS", (2,))
    monkeypatch.setattr(sweep_power, "SEEDS", (5,))
    page = Path(shutil.copy(sweep_power.PAGE, tmp_path))
    sweep_power.main(["--sweeps", "300", "--page", str(page)])
    assert shares(page)["2", "5"] == pytest.approx(shown["2", "5"], abs=8)
