"""Measures what docs/gradients.md says: `python evidence/run_studies.py` writes its tables and pictures anew.

Five studies, three seeds where chance plays a part; three minutes on two cores. Needs matplotlib (extra `docs`).
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from runner.compose import Composer
from runner.errors import Parser, one_line

PAGE = Path(__file__).parents[1] / "docs" / "gradients.md"


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(description="Measures what docs/gradients.md says.")
    parser.add_argument("studies", nargs="*", help="which, such as depth (all)")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page whose tables are replaced")
    args = parser.parse_args(arguments)
    with one_line():
        from evidence.studies import STUDIES
        from evidence.studies.page import replace
        from runner.errors import UserError
        from trainer.inspection import drawing

        for name in args.studies:
            if name not in STUDIES:
                raise UserError(f"{name}: no such study; there are {', '.join(STUDIES)}")
        if not args.page.is_file():
            raise UserError(f"--page {args.page}: no such file")
        pyplot, composer = drawing(), Composer(CONF)
        folder = args.page.with_suffix("")
        folder.mkdir(exist_ok=True)
        for name in args.studies or STUDIES:
            started, study = time.perf_counter(), STUDIES[name]
            found = study.measure(composer, CONF)
            table = study.page(found)
            args.page.write_text(replace(args.page.read_text(encoding="utf-8"), name, table), encoding="utf-8")
            if study.draw is not None:
                study.draw(found, pyplot).savefig(folder / f"{name}.png")
            print(f"{name}, {time.perf_counter() - started:.0f} s\n\n{table}\n")


if __name__ == "__main__":
    main()
