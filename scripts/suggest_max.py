"""Suggests clipping thresholds from the gradient norms of one run: `python scripts/suggest_max.py outputs/latest`.

Event files of other programs can be read, too: `python scripts/suggest_max.py FOLDER --tag train/grad_norm`.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # this checkout, whatever else is installed

from runner.errors import Parser, is_user_error, one_line_errors, print_line


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(description="Suggests clipping thresholds from the gradient norms of one run.")
    parser.add_argument(
        "run", type=Path, help="the run's folder, or a folder with a TensorBoard event file of another program"
    )
    parser.add_argument("--tag", help="the scalar with the norm before clipping; default: grad_norm/before")
    args = parser.parse_args(arguments)
    with one_line_errors():
        from runner.report.advice import advise
        from runner.tracking.tags import NORM_BEFORE

        print_line(advise(args.run, args.tag or NORM_BEFORE, clip_of))


def clip_of(overrides: Sequence[str]) -> dict[str, Any] | None:
    """The values of `clip` in the configuration that these overrides make; None if this project refuses them."""
    from trainer.project import compose

    try:
        return asdict(compose(*overrides).clip)
    except Exception as error:
        if not is_user_error(error):
            raise
        return None


if __name__ == "__main__":
    main()
