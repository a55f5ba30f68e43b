"""Runs the studies: `python evidence/run_studies.py` writes the tables and plots of evidence/docs/gradients.md.

Five studies, with three seeds each where random numbers matter; three minutes on two cores. Needs matplotlib (extra
`docs`).
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from evidence import pages
from evidence.studies import STUDIES

PAGE = pages.DOCS / "gradients.md"


def main(arguments: list[str] | None = None) -> None:
    parser = pages.parser(__doc__, PAGE)
    parser.add_argument("studies", nargs="*", help=f"which of {', '.join(STUDIES)}; all by default")
    args = parser.parse_args(arguments)
    if unknown := [name for name in args.studies if name not in STUDIES]:
        parser.error(f"{unknown[0]}: no such study; there are {', '.join(STUDIES)}")
    pictures = args.page.with_suffix("")
    pictures.mkdir(exist_ok=True)
    for name in args.studies or STUDIES:
        started, study = time.perf_counter(), STUDIES[name]
        found = study.measure()
        pages.write(args.page, {name: study.page(found)})
        if study.draw is not None:
            study.draw(found, pages.pyplot()).savefig(pictures / f"{name}.png")
        print(f"{name}, {time.perf_counter() - started:.0f} s\n")


if __name__ == "__main__":
    main()
