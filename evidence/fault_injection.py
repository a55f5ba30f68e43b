"""Injects faults into real runs and counts what is lost: `python evidence/fault_injection.py` writes docs/faults.md.

    python evidence/fault_injection.py                        everything: about half an hour
    python evidence/fault_injection.py damage fuzz            two kinds; the page keeps the rows of the others
    python evidence/fault_injection.py --quick damage fuzz    a few of them, in a minute; the page stays as it is

The faults themselves stand in tests/faults/, and the suite runs a few of each.
"""

import multiprocessing
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from runner.errors import Parser

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "evidence" / "docs" / "faults.md"
if TYPE_CHECKING:
    from evidence.faults import Tally

# Where each kind stands, its counts, and its counts with --quick.
FAULTS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = {
    "kill": ("kills.sigkill", (120, 6000), (8, 300)),
    "damage": ("damage.damaged", (50, 200, 10), (10, 20, 2)),
    "signal": ("kills.asked", (12, 20000), (1, 2000)),
    "sigint": ("kills.sigint_twice", (10,), (1,)),
    "disk": ("disk.full", (15, 9, 3), (2, 1, 1)),
    "nonfinite": ("nonfinite.injected", (5,), (1,)),
    "folder": ("folders.shared", (12, 8), (2, 1)),
    "foreign": ("foreign.foreign", (), ()),
    "fuzz": ("fuzz.fuzzed", (3000,), (60,)),
}


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("kinds", nargs="*", help=f"of {', '.join(FAULTS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="a few of each")
    parser.add_argument("--jobs", type=int, default=2, help="kinds at a time")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page that is written")
    args = parser.parse_args(arguments)
    if unknown := [kind for kind in args.kinds if kind not in FAULTS]:
        parser.error(f"{unknown[0]}: no such kind; there are {', '.join(FAULTS)}")
    kinds = args.kinds or list(FAULTS)
    # Processes of their own: some of them change torch's threads, or the folder they are in.
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        jobs = [pool.submit(run, kind, args.quick) for kind in kinds]
        tallies = {}
        for kind, job in zip(kinds, jobs, strict=True):
            tallies[kind] = job.result()
            print(tallies[kind].row(), flush=True)
            for lost in tallies[kind].lost:
                print(f"  lost: {lost}", flush=True)
    if not args.quick:
        earlier = args.page.read_text(encoding="utf-8") if args.page.exists() else ""
        args.page.write_text(page(tallies, earlier), encoding="utf-8")
    return 1 if any(tally.lost for tally in tallies.values()) else 0


def run(kind: str, quick: bool) -> "Tally":
    """One kind of fault, in a folder of its own that is taken away afterwards."""
    from importlib import import_module

    import torch

    torch.set_num_threads(1)
    where, full, few = FAULTS[kind]
    module, _, function = where.partition(".")
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as nothing:
        sys.stdout = nothing  # what the runs in this process print
        try:
            inject = getattr(import_module(f"evidence.faults.{module}"), function)
            tally: Tally = inject(Path(folder), *(few if quick else full))
        finally:
            sys.stdout = sys.__stdout__
    return tally


def page(tallies: "dict[str, Tally]", earlier: str = "") -> str:
    """The table, and what was lost, by its kind; an earlier page gives the rows of the kinds that were not run."""
    kept = {line.split(" | ")[0].removeprefix("| "): line for line in earlier.splitlines() if line.startswith("| ")}
    rows = {kind: f"| {kind} {tallies[kind].row()}" if kind in tallies else kept.get(kind) for kind in FAULTS}
    lost = [f"- {kind}: {each}" for kind, tally in tallies.items() for each in tally.lost]
    lost += [line for line in earlier.splitlines() if line.startswith("- ") and line[2:].partition(":")[0] in
             FAULTS.keys() - tallies.keys()]  # fmt: skip
    lines = [
        "# Faults, counted",
        "",
        "Written by `python evidence/fault_injection.py`, which injects them into real processes and real files. What",
        "is killed goes on with `resume=` and is compared, at its end, with the run that nothing happened to.",
        "",
        "| kind | fault | tried | survived | lost | what must hold |",
        "|---|---|---|---|---|---|",
        *(row for row in rows.values() if row),
        "",
        "## Lost",
        "",
    ]
    lines += lost or ["Nothing."]
    lines += [
        "",
        "## Not tried",
        "",
        "- A power cut. Checkpoints and `config.yaml` are synced to the disk before they get their names; event files",
        "  and `status.json` are not: after one a run goes on, but points that the checkpoint knows of may be missing.",
        "- YAML aliases that grow exponentially in a file of `conf/` or `--config-dir`: Hydra expands them. A",
        "  run's own `config.yaml` with any alias in it is refused.",
        "- Two machines on one folder of a network disk: the lock is a POSIX record lock, which such disks pass on, or",
        "  do not. Where a disk has no locks at all, the process and the heartbeat in `status.json` decide.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
