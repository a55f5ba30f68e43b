"""Injects faults into real runs and counts losses: `python evidence/fault_injection.py` writes evidence/docs/faults.md.

    python evidence/fault_injection.py                        all kinds: about half an hour
    python evidence/fault_injection.py damage fuzz            two kinds; the page keeps the rows of the others
    python evidence/fault_injection.py --quick damage fuzz    a few of each, in a minute; the page is not changed

The faults are in evidence/faults, and evidence/tests injects a few of each kind.
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
    """A kind of fault. counts: the arguments of `inject` after the folder; quick: those for a few faults only."""

    inject: Callable[..., Tally]
    counts: tuple[int, ...]
    quick: tuple[int, ...]


FAULTS = {
    "kill": Kind(kills.sigkill, (120, 6000), (8, 300)),
    "damage": Kind(damage.damaged, (50, 200, 10), (10, 20, 2)),
    "signal": Kind(kills.interrupted, (12, 20000), (1, 2000)),
    "sigint": Kind(kills.sigint_twice, (10,), (1,)),
    "disk": Kind(disk.full, (15, 9, 3), (2, 1, 1)),
    "nonfinite": Kind(nonfinite.injected, (5,), (1,)),
    "folder": Kind(folders.shared, (12, 8), (2, 1)),
    "rejected": Kind(rejected.rejected, (len(rejected.ERRORS),), (2,)),
    "foreign": Kind(foreign.foreign, (), ()),
    "fuzz": Kind(fuzz.fuzzed, (3000,), (60,)),
}


def main(arguments: list[str] | None = None) -> int:
    parser = pages.parser(__doc__, PAGE)
    parser.add_argument("kinds", nargs="*", help=f"kinds among {', '.join(FAULTS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="inject a few of each kind; the page is not changed")
    parser.add_argument("--jobs", type=int, default=2, help="kinds that run in parallel")
    args = parser.parse_args(arguments)
    if unknown := [kind for kind in args.kinds if kind not in FAULTS]:
        parser.error(f"{unknown[0]}: no such kind; there are {', '.join(FAULTS)}")
    kinds = args.kinds or list(FAULTS)
    # Each kind gets a new process: some change torch's threads or the working directory.
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
    """Injects one kind of fault in a temporary folder, without the output of the runs."""
    torch.set_num_threads(1)
    inject, counts, few = FAULTS[kind]
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as null:
        sys.stdout = null
        try:
            return inject(Path(folder), *(few if quick else counts))
        finally:
            sys.stdout = sys.__stdout__


def section(tallies: Mapping[str, Tally], earlier: str) -> str:
    """Makes the table and the list of losses. earlier: the section with the rows of kinds that were not run."""
    rows = {row[0]: row for row in pages.cells(earlier)} | {
        kind: [kind, *tally.cells()] for kind, tally in tallies.items()
    }
    before = [line for line in earlier.splitlines() if line.startswith("- ")]
    lost = [line for line in before if line[2:].partition(":")[0] not in tallies]
    lost += [f"- {kind}: {loss}" for kind, tally in tallies.items() for loss in tally.lost]
    head = ["kind", "fault", "tried", "survived", "lost", "what must hold"]
    table = pages.table(head, [rows[kind] for kind in FAULTS if kind in rows])
    return f"{table}\n\n" + ("Lost:\n\n" + "\n".join(lost) if lost else "Lost: nothing.")


if __name__ == "__main__":
    sys.exit(main())
