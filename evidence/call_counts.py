"""Counts what a run does before its first optimizer step: `python evidence/call_counts.py COMMIT [COMMIT …]`.

Each commit is checked out into a temporary folder, and its `train.py` runs two steps under evidence/tracer.py, on this
machine and with this interpreter. Prints one row per commit.

compositions: how often Hydra's loader composes a configuration. functions, calls: how many functions of `train.py` and
`src` are called, and how often. passes: how often one of `train.py`, the command line (`cli`) and Hydra's main program
calls another of them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from evidence.contract import checkout

TRACER = Path(__file__).with_name("tracer.py")
RUN = ("steps=2", "clip.max=0.5", "data.sample=0", "log.gradient_norms=false", "hydra.run.dir=run")
COLUMNS = ("compositions", "functions", "calls", "passes")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("commits", nargs="+", metavar="COMMIT", help="commits, branches or tags of this repository")
    args = parser.parse_args(arguments)
    print(f"| until the first step | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}")
    for commit in args.commits:
        with tempfile.TemporaryDirectory(prefix="trace-") as name:
            counts = trace(checkout(commit, Path(name).resolve() / "project"), RUN)
        print(f"| {commit} | {' | '.join(f'{counts[column]:,}' for column in COLUMNS)} |", flush=True)


def trace(project: Path, arguments: Sequence[str]) -> dict[str, int]:
    """The counts of `python train.py …` with the code of one checkout, by the names of COLUMNS.

    Raises RuntimeError with the program's output if it fails or takes no step.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "counts.json"
        environment = os.environ | {"PYTHONPATH": str(project / "src"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(TRACER), str(result), str(project / "train.py"), *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not result.exists():
            raise RuntimeError(f"train.py ended with {done.returncode}\n{done.stdout}{done.stderr}")
        counts: dict[str, int] = json.loads(result.read_text(encoding="utf-8"))
    return counts


if __name__ == "__main__":
    main()
