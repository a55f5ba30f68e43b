"""Suggests clipping thresholds from the gradient norms of one run: `python scripts/suggest_max.py outputs/latest`.

Event files of other programs can be read, too: `python scripts/suggest_max.py FOLDER --tag train/grad_norm`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # this checkout, whatever else is installed

from runner.errors import Parser, one_line_errors, print_line


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(description="Suggests clipping thresholds from the gradient norms of one run.")
    parser.add_argument(
        "run", type=Path, help="the run's folder, or a folder with a TensorBoard event file of another program"
    )
    parser.add_argument("--tag", help="the scalar with the norm before clipping; default: grad_norm/before")
    args = parser.parse_args(arguments)
    with one_line_errors():
        from runner.report.advice import advise

        print_line(advise(args.run, args.tag) if args.tag else advise(args.run))


if __name__ == "__main__":
    main()
