"""From the command to the first step, against the time that importing torch, Hydra and TensorBoard takes."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from evidence.benchmarks.measure import Times, machine, ratio, table, write

TRAIN = str(Path(__file__).parents[2] / "train.py")
TIMELINE = str(Path(__file__).parent / "timeline.py")
RUN = ("steps=1", "data.sample=0", "evaluate_every=1", "log.progress=false")
# Python keeps the bytecode of what it imports, as on a user's machine from the second start on.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
STEP, IMPORTING = "`python train.py` to its first step", "importing torch, Hydra and TensorBoard"
IMPORTS = "import torch, hydra, omegaconf, torch.utils.tensorboard"
BY_HAND = """
model = torch.nn.Linear(4, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(torch.ones(1, 4)).sum().backward()
optimizer.step()"""
STAGES = {  # Python, from its start to the last line
    IMPORTING: IMPORTS,
    "and a step by hand, of `torch.optim.SGD`": IMPORTS + BY_HAND,
    "`import torch`": "import torch",
}
CHECKS = "`--cfg job`: the checks, without torch"
TEXT = """`python evidence/benchmark.py start`: the default job. Every time is from the start of a process to the moment
that is named, without its exit (`--cfg job` alone is a whole process). *Processor* is what all of its threads worked,
which other programs on the machine disturb less. torch's optimizers import its compiler, which makes the step by hand
what it is; the runs here leave that out."""
PHASES = """Where it goes: such a run with the functions between its phases wrapped (`evidence/benchmarks/timeline.py`).
The first four rows are what importing is made of; all others are ours."""
PARTS = ("start Python", "import Hydra", "import torch", "import TensorBoard")  # of importing


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--turns", type=int, default=9, help="how often everything is started")


def run(args: argparse.Namespace) -> None:
    names = [STEP, *STAGES, CHECKS]
    wall: Times = {name: [] for name in names}
    work: Times = {name: [] for name in names}
    phases: list[dict[str, list[float]]] = []
    for turn in range(args.turns + 1):
        found = {name: started(["-c", code + REPORT]) for name, code in STAGES.items()}
        found[CHECKS] = whole([TRAIN, "--cfg", "job"])
        timeline = phase_by_phase()
        found[STEP] = (first_step(), sum(work for _, work in timeline.values()))
        if turn:  # the first turn fills the disk's cache
            phases.append(timeline)
            for name in names:
                wall[name].append(found[name][0])
                work[name].append(found[name][1])
    columns = [[str(ratio(times, name, IMPORTING)) for name in names] for times in (wall, work)]
    rows = [
        [name, f"{statistics.median(wall[name]):.2f}", one, f"{statistics.median(work[name]):.2f}", other]
        for name, one, other in zip(names, *columns, strict=True)
    ]
    head = ["", "seconds", "against importing", "processor, s", "against importing"]
    text = f"{TEXT}\n\n{machine()}\n\n{table(head, rows)}\n\n{PHASES}\n\n"
    write("start", text + phase_table(phases, wall[IMPORTING]))


REPORT = "\nimport time; print(time.time(), time.process_time())"


def started(arguments: Sequence[str]) -> tuple[float, float]:
    """Seconds, on the clock and of the processor, until Python prints both."""
    begun = time.time()
    now, work = map(float, python(arguments).split())
    return now - begun, work


def whole(arguments: Sequence[str]) -> tuple[float, float]:
    """Seconds, on the clock and of the processor, of a whole process."""
    begun, before = time.time(), os.times()
    python(arguments)
    now, after = time.time(), os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return now - begun, used


def first_step() -> float:
    """Seconds until the event file says that the first step was done."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.time()
        python([TRAIN, *RUN, f"hydra.run.dir={folder}/run"])
        (events,) = Path(folder, "run").glob("events.*")
        for event in EventFileLoader(str(events)).Load():
            if any(value.tag == "loss/train" for value in event.summary.value):
                return float(event.wall_time) - begun
    raise RuntimeError("the run logged no step")


def phase_by_phase() -> dict[str, list[float]]:
    """Seconds of each phase up to the first step, on the clock and of the processor."""
    with tempfile.TemporaryDirectory() as folder:
        printed = python([TIMELINE, str(time.time()), TRAIN, *RUN, f"hydra.run.dir={folder}/run"])
    phases: dict[str, list[float]] = json.loads(printed.splitlines()[-1])
    return phases


def phase_table(turns: Sequence[dict[str, list[float]]], importing: Sequence[float]) -> str:
    """A row a phase, and one for what is ours; importing: the seconds of each turn."""
    ours = [name for name in turns[0] if name not in PARTS]
    sets = {name: [name] for name in [*PARTS, *ours]} | {"all that is ours": ours, "all": list(turns[0])}
    rows = []
    for title, names in sets.items():
        wall, work = ([sum(turn[name][kind] for name in names) for turn in turns] for kind in (0, 1))
        share = statistics.median(one / other for one, other in zip(wall, importing, strict=True))
        rows.append(
            [title, f"{statistics.median(wall) * 1e3:.0f}", f"{statistics.median(work) * 1e3:.0f}", f"{share:.3f}"]
        )
    return table(["", "ms", "processor, ms", "against importing"], rows)


def python(arguments: Sequence[str]) -> str:
    """What Python prints."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=ENVIRONMENT).stdout
