"""The time from the command to the first step, against that of importing torch, Hydra and TensorBoard."""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from evidence.benchmarks.measure import Times, machine, ratio
from evidence.pages import table

TRAIN = str(Path(__file__).parents[2] / "train.py")
RUN = ("steps=1", "data.sample=0", "log.progress=false")
# Bytecode is cached, as on a user's machine from the second start on.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
STEP, IMPORTING = "`python train.py` to its first step", "importing torch, Hydra and TensorBoard"
IMPORTS = "import torch, hydra, omegaconf, torch.utils.tensorboard"
BY_HAND = """
model = torch.nn.Linear(4, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(torch.ones(1, 4)).sum().backward()
optimizer.step()"""
PROGRAMS = {
    IMPORTING: ["-c", IMPORTS],
    "and a step by hand, of `torch.optim.SGD`": ["-c", IMPORTS + BY_HAND],
    "`import torch`": ["-c", "import torch"],
    "`python train.py --cfg job`": [TRAIN, "--cfg", "job"],
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--turns", type=int, default=9, help="the number of starts of each program")


def run(args: argparse.Namespace) -> str:
    names = [STEP, *PROGRAMS]
    wall: Times = {name: [] for name in names}
    work: Times = {name: [] for name in names}
    for turn in range(args.turns + 1):
        found = {STEP: first_step()} | {name: run_timed(program) for name, program in PROGRAMS.items()}
        if turn:  # the first turn fills the disk's cache
            for name in names:
                wall[name].append(found[name][0])
                work[name].append(found[name][1])
    columns = [[str(ratio(times, name, IMPORTING)) for name in names] for times in (wall, work)]
    rows = [
        [name, f"{statistics.median(wall[name]):.2f}", one, f"{statistics.median(work[name]):.2f}", other]
        for name, one, other in zip(names, *columns, strict=True)
    ]
    head = ["", "seconds", "against importing", "processor, s", "against importing"]
    return f"{machine()}\n\n{table(head, rows)}"


def run_timed(arguments: Sequence[str]) -> tuple[float, float]:
    """Runs a Python process; returns its wall time and its CPU time in seconds."""
    started, before = time.time(), os.times()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=ENVIRONMENT)
    now, after = time.time(), os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return now - started, used


def first_step() -> tuple[float, float]:
    """The wall time until the first step is in the event file, and the CPU time of the whole run, in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.time()
        _, used = run_timed([TRAIN, *RUN, f"hydra.run.dir={folder}/run"])
        (events,) = Path(folder, "run").glob("events.*")
        for event in EventFileLoader(str(events)).Load():
            if any(value.tag == "loss/train" for value in event.summary.value):
                return float(event.wall_time) - started, used
    raise RuntimeError("the run logged no step")
