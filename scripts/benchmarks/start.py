"""From the command to the first step, against the time that importing torch, Hydra and TensorBoard takes."""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from scripts.benchmarks.measure import Times, machine, ratio, table, write

TRAIN = str(Path(__file__).parents[2] / "train.py")
IMPORTS = "import torch, hydra, omegaconf, torch.utils.tensorboard"
STAGES = {
    "importing torch, Hydra and TensorBoard": [sys.executable, "-c", IMPORTS],
    "and all of this project": [sys.executable, "-c", "import trainer.cli, trainer.loop"],
    "`--cfg job`: the checks, without torch": [sys.executable, TRAIN, "--cfg", "job"],
    "`import torch`": [sys.executable, "-c", "import torch"],
}
STEP = "`python train.py` to its first step"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--turns", type=int, default=9, help="how often everything is started")


def run(args: argparse.Namespace) -> None:
    names = [STEP, *STAGES]
    times: Times = {name: [] for name in names}
    for turn in range(args.turns + 1):
        for name in names:
            took = first_step() if name == STEP else lasting(lambda name=name: subprocess.run(  # type: ignore[misc]
                STAGES[name], check=True, capture_output=True))  # fmt: skip
            times[name] += [took] if turn else []  # the first turn fills the disk's cache
    base = next(iter(STAGES))
    rows = [
        [name, f"{sorted(times[name])[len(times[name]) // 2]:.2f}", str(ratio(times, name, base))] for name in names
    ]
    text = f"`python scripts/benchmark.py start`\n\n{machine()}\n\n"
    write("start", text + table(["", "seconds", "against importing"], rows))


def lasting(work: Callable[[], object]) -> float:
    started = time.time()
    work()
    return time.time() - started


def first_step() -> float:
    """Seconds until the event file says that the first step was done."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.time()
        command = [sys.executable, TRAIN, "steps=1", "data.sample=0", "evaluate_every=1", "log.progress=false"]
        subprocess.run([*command, f"hydra.run.dir={folder}/run"], check=True, capture_output=True, cwd=folder)
        (events,) = Path(folder, "run").glob("events.*")
        for event in EventFileLoader(str(events)).Load():
            if any(value.tag == "loss/train" for value in event.summary.value):
                return float(event.wall_time) - started
    raise RuntimeError("the run logged no step")
