"""Injects faults into real runs and counts what is lost: `python evidence/fault_injection.py` writes docs/faults.md.

    python evidence/fault_injection.py                        everything: about half an hour
    python evidence/fault_injection.py damage fuzz            two kinds; the page keeps the rows of the others
    python evidence/fault_injection.py --quick damage fuzz    a few of them, in a minute; the page stays as it is

The faults themselves stand in evidence/faults, and evidence/tests tries a few of each.
"""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from evidence import pages
from evidence.faults import Tally, damage, disk, folders, foreign, fuzz, kills, nonfinite, rejected

PAGE = pages.DOCS / "faults.md"


class Kind(NamedTuple):
    """A kind of fault. counts: what `inject` takes after a folder, for the page; quick: the same for a few of them."""

    inject: Callable[..., Tally]
    counts: tuple[int, ...]
    quick: tuple[int, ...]


FAULTS = {
    "kill": Kind(kills.sigkill, (120, 6000), (8, 300)),
    "damage": Kind(damage.damaged, (50, 200, 10), (10, 20, 2)),
    "signal": Kind(kills.asked, (12, 20000), (1, 2000)),
    "sigint": Kind(kills.sigint_twice, (10,), (1,)),
    "disk": Kind(disk.full, (15, 9, 3), (2, 1, 1)),
    "nonfinite": Kind(nonfinite.injected, (5,), (1,)),
    "folder": Kind(folders.shared, (12, 8), (2, 1)),
    "rejected": Kind(rejected.rejected, (len(rejected.MISTAKES),), (2,)),
    "foreign": Kind(foreign.foreign, (), ()),
    "fuzz": Kind(fuzz.fuzzed, (3000,), (60,)),
}


def main(arguments: list[str] | None = None) -> int:
    parser = pages.parser(__doc__, PAGE)
    parser.add_argument("kinds", nargs="*", help=f"of {', '.join(FAULTS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="a few of each")
    parser.add_argument("--jobs", type=int, default=2, help="kinds at a time")
    args = parser.parse_args(arguments)
    if unknown := [kind for kind in args.kinds if kind not in FAULTS]:
        parser.error(f"{unknown[0]}: no such kind; there are {', '.join(FAULTS)}")
    kinds = args.kinds or list(FAULTS)
    # Processes of their own: some of them change torch's threads, or the folder they are in.
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        jobs = {kind: pool.submit(run, kind, args.quick) for kind in kinds}
        tallies = {}
        for kind, job in jobs.items():
            tallies[kind] = job.result()
            print(f"{kind}: {tallies[kind].tried} tried", *tallies[kind].lost, sep="\n  lost: ", flush=True)
    if not args.quick:
        earlier = pages.content(args.page.read_text(encoding="utf-8"), "faults")
        pages.write(args.page, {"faults": section(tallies, earlier)})
    return 1 if any(tally.lost for tally in tallies.values()) else 0


def run(kind: str, quick: bool) -> Tally:
    """One kind of fault, in a folder of its own that is taken away afterwards."""
    torch.set_num_threads(1)
    inject, counts, few = FAULTS[kind]
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as nothing:
        sys.stdout = nothing  # what the runs in this process print
        try:
            return inject(Path(folder), *(few if quick else counts))
        finally:
            sys.stdout = sys.__stdout__


def section(tallies: Mapping[str, Tally], earlier: str) -> str:
    """The table, and what was lost, by its kind; an earlier section gives the rows of the kinds that were not run."""
    rows = {row[0]: row for row in pages.cells(earlier)} | {
        kind: [kind, *tally.cells()] for kind, tally in tallies.items()
    }
    before = [line for line in earlier.splitlines() if line.startswith("- ")]
    lost = [line for line in before if line[2:].partition(":")[0] not in tallies]
    lost += [f"- {kind}: {each}" for kind, tally in tallies.items() for each in tally.lost]
    head = ["kind", "fault", "tried", "survived", "lost", "what must hold"]
    table = pages.table(head, [rows[kind] for kind in FAULTS if kind in rows])
    return f"{table}\n\n" + ("Lost:\n\n" + "\n".join(lost) if lost else "Lost: nothing.")


if __name__ == "__main__":
    sys.exit(main())
