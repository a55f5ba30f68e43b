"""Compares the start-up times of two commits: `python evidence/startup.py A B`.

Both are checked out into temporary folders, and each command runs in both alternately, on this machine and with this
interpreter. Prints the median CPU-seconds of each command and its child processes.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from evidence.contract import checkout

COMMANDS = {
    "`--cfg job`": ["--cfg", "job"],
    "`--help`": ["--help"],
    "a wrong key": ["clip.maks=1"],
    "one step": ["steps=1", "data.sample=0", "log.gradient_norms=false", "hydra.run.dir=run"],
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("before", metavar="A", help="a commit, branch or tag of this repository")
    parser.add_argument("after", metavar="B", help="the commit that is compared with it")
    parser.add_argument("--repeats", type=int, default=9, help="the number of measurements of each command (9)")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="startup-") as name:
        folders = [checkout(commit, Path(name) / side) for commit, side in ((args.before, "a"), (args.after, "b"))]
        print(f"| CPU-seconds, median of {args.repeats} | before | after |\n|---|---|---|")
        for title, command in COMMANDS.items():
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(args.repeats):
                for seconds, folder in zip(times, folders, strict=True):
                    seconds.append(cpu_seconds(folder, command))
            before, after = (statistics.median(seconds) for seconds in times)
            print(f"| {title} | {before:.2f} | {after:.2f} |", flush=True)


def cpu_seconds(project: Path, command: Sequence[str]) -> float:
    """The processor time of `python train.py …` with the code of one checkout."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"PYTHONPATH": str(project / "src"), "OMP_NUM_THREADS": "1"}
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, str(project / "train.py"), *command], cwd=folder, env=environment,
                       capture_output=True, check=False)  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        shutil.rmtree(Path(folder) / "run", ignore_errors=True)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


if __name__ == "__main__":
    main()
