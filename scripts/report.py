"""Says what a sweep found: `python scripts/report.py SWEEP …`, or nothing for the newest sweep.

Writes report.md, report.html (one file, nothing from the network) and PNGs into the sweep's folder, and prints
the table. Needs matplotlib (extra `report`).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # this checkout, whatever else is installed

from runner.errors import Parser, UserError, one_line_errors
from runner.report import report

SWEEPS = Path("outputs") / "sweeps"


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(description="Says what a sweep found.")
    parser.add_argument(
        "sweeps", nargs="*", type=Path, help="folders of sweeps or of runs; the newest sweep by default"
    )
    parser.add_argument("--folder", type=Path, help="where the report goes; by default into the first of them")
    args = parser.parse_args(arguments)
    with one_line_errors():
        print(report(args.sweeps or [newest()], args.folder))


def newest() -> Path:
    """The sweep that was begun last; raises UserError where there is none."""
    found = sorted(SWEEPS.glob("*/sweep.json"), key=lambda path: path.parent.name)
    if not found:
        raise UserError(f"{SWEEPS}: there is no sweep; python train.py -m … makes one")
    return found[-1].parent


if __name__ == "__main__":
    main()
