"""Reports the results of sweeps: `python scripts/report.py [SWEEP …]`; without an argument, of the newest sweep.

Writes report.md, report.html (one file, which loads nothing from the network) and PNGs into the sweep's folder, and
prints the table and the conclusion. Needs matplotlib, scipy and tabulate (extra `report`).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # this checkout, whatever else is installed

from runner.errors import Parser, UserError, is_user_error, one_line_errors, print_line
from runner.report import report

SWEEPS = Path("outputs") / "sweeps"


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(
        description="Reports the results of sweeps: a table, plots, and which policy and threshold to take."
    )
    parser.add_argument(
        "sweeps", nargs="*", type=Path, help="folders of sweeps or of runs; the newest sweep by default"
    )
    parser.add_argument("--folder", type=Path, help="the folder for the report; by default the first sweep")
    args = parser.parse_args(arguments)
    with one_line_errors():
        print_line(report(args.sweeps or [newest()], args.folder, accepts))


def accepts(overrides: Sequence[str]) -> bool:
    """Whether this project accepts a configuration, so that no value is proposed that it refuses."""
    from trainer.project import compose

    try:
        compose(*overrides)
    except Exception as error:
        if not is_user_error(error):
            raise
        return False
    return True


def newest() -> Path:
    """The sweep that was started last. Raises UserError if there is none."""
    plans = sorted(SWEEPS.glob("*/sweep.json"), key=lambda path: path.parent.name)
    if not plans:
        raise UserError(f"{SWEEPS}: there is no sweep; python train.py -m … starts one")
    return plans[-1].parent


if __name__ == "__main__":
    main()
