"""Trains the default job with and without clipping; `python evidence/default_job.py` writes its page.

Five seeds of `experiment=default_job`, each with clip=none and with clip=norm; two minutes on one core. The page is
evidence/docs/default_job.md.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from evidence import pages
from evidence.common import status_of

PAGE = pages.DOCS / "default_job.md"
CLIPS = ("clip=none", "clip=norm")


def main(arguments: list[str] | None = None) -> None:
    parser = pages.parser(__doc__, PAGE)
    parser.add_argument("--seeds", type=int, default=5, help="the number of seeds, from 0")
    parser.add_argument("overrides", nargs="*", help="further overrides of the default job")
    args = parser.parse_args(arguments)
    rows = [
        [str(seed), *(ended(clip, f"seed={seed}", *args.overrides) for clip in CLIPS)] for seed in range(args.seeds)
    ]
    pages.write(args.page, {"ends": pages.table(["seed", *(f"`{clip}`" for clip in CLIPS)], rows)})


def ended(*overrides: str) -> str:
    """Describes how a run ended: its state, and its best validation loss or the step at which it diverged."""
    with tempfile.TemporaryDirectory() as folder:
        status = status_of(Path(folder), "experiment=default_job", *overrides)
    if status["state"] == "diverged":
        return f"diverged at step {status['step']}"
    return f"{status['state']}, best validation loss {status['objective']:.3f}"


if __name__ == "__main__":
    main()
