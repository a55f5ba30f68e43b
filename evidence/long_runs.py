"""Measures long runs: `python evidence/long_runs.py` writes evidence/docs/long_runs.md, in a few minutes.

The memory, the event file and metrics.jsonl of 200,000 steps of the smallest model, and the share of the default job's
time that goes into its checkpoints.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from evidence import pages
from evidence.common import SEARCHPATH, compose
from evidence.processes import memory
from runner.runs import checkpoint
from runner.runs.status import read_status
from runner.tracking import metrics
from runner.tracking.metrics import METRICS_FILE
from runner.tracking.tags import VALIDATION_LOSS
from runner.tracking.tracker import Tracker
from runner.tracking.truncation import log_lengths
from trainer.config import Train
from trainer.loop import checkpoint_content
from trainer.run import execute_in_folder
from trainer.state import build

PAGE = pages.DOCS / "long_runs.md"
TRAIN = Path(__file__).parents[1] / "train.py"
BYTES = 400  # largest growth of the event file per step of the smallest model, at the default log.*
GROWTH = 2.0  # MiB: growth of the memory after the first 1,000 steps that counts as noise
SHARE = 0.02  # largest share of a run's time for its checkpoints
REPEATS = 5


def main(arguments: list[str] | None = None) -> None:
    parser = pages.parser(__doc__, PAGE)
    parser.add_argument("--steps", type=int, default=200_000, help="steps of the smallest model, at least 2,000")
    parser.add_argument("overrides", nargs="*", help="further overrides of the default job")
    args = parser.parse_args(arguments)
    if args.steps < 2000:
        parser.error(f"--steps={args.steps}: at least 2,000")
    pages.write(args.page, {"memory": memory_section(args.steps), "checkpoints": checkpoints_section(*args.overrides)})


def memory_section(steps: int) -> str:
    """Trains the smallest model, and makes the table of its resident memory over the steps and the bytes per step."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        found = resident_by_step(run, steps)
        lengths = log_lengths(run)
    marks = sorted({1000, *(steps * share // 20 for share in (1, 5, 10, 15, 20))})
    # Takes the first measurement at or after each step; the last measurement is slightly before the last step.
    rows = [[f"{mark:,}", f"{next((mb for step, mb in found if step >= mark), found[-1][1]):.1f}"] for mark in marks]
    late = [mb for step, mb in found if step >= 1000]
    rows += [["growth from step 1,000 on", f"{late[-1] - late[0]:.1f}, where {GROWTH:g} count as noise"]]
    lines = lengths.pop(METRICS_FILE) / steps
    events = sum(lengths.values()) / steps
    written = f"Its event file: {events:.0f} bytes a step, of at most {BYTES} allowed; metrics.jsonl: {lines:.0f}."
    return f"{pages.table(['step', 'resident memory, MB'], rows)}\n\n{written}"


def resident_by_step(run: Path, steps: int) -> list[tuple[int, float]]:
    """Runs the program and returns its step and resident memory in MiB, every half second."""
    chosen = [SEARCHPATH, "experiment=smallest", f"steps={steps}", f"hydra.run.dir={run}"]
    process = subprocess.Popen([sys.executable, str(TRAIN), *chosen], cwd=run.parent, stdout=subprocess.DEVNULL)
    found: list[tuple[int, float]] = []
    while process.poll() is None:
        time.sleep(0.5)
        if (resident := memory("VmRSS", process.pid)) is not None:
            found.append((read_status(run).get("step", 0), resident))
    if process.returncode:
        raise RuntimeError(f"the run ended with {process.returncode}")
    return [
        (step, resident) for step, resident in found if 0 < step < steps
    ]  # without the memory of the summary at the end


def checkpoints_section(*overrides: str) -> str:
    """Makes a table of the default job: its duration, its number of checkpoints, and the duration of one."""
    config = compose("experiment=default_job", *overrides)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        started = time.perf_counter()
        execute_in_folder(config, run)
        total = time.perf_counter() - started
        losses = [loss for _, loss in metrics.read(run, [VALIDATION_LOSS])[VALIDATION_LOSS]]
        best = sum(loss < min(losses[:number], default=float("inf")) for number, loss in enumerate(losses))
        count = -(-config.steps // config.checkpoint.every) + best
        seconds = seconds_of_a_checkpoint(config, run)
    share = f"{100 * count * seconds / total:.2f} %, of at most {100 * SHARE:g} % allowed"
    rows = [[f"{total:.1f} s", str(count), f"{1000 * seconds:.1f} ms", share]]
    return pages.table(["the run", "checkpoints, the best ones included", "one of them", "share of the time"], rows)


def seconds_of_a_checkpoint(config: Train, run: Path) -> float:
    """The mean time to collect the state of a finished run, write it and sync it to the disk."""
    state, newest = build(config), checkpoint.load_newest(run)
    assert newest is not None
    path, content = newest
    state.load_state_dict(content, path)
    folder = run / "again"
    tracker = Tracker(folder, "", {})
    started = time.perf_counter()
    for _ in range(REPEATS):
        checkpoint.save(folder, checkpoint_content(state, tracker), keep=config.checkpoint.keep)
    spent = time.perf_counter() - started
    tracker.close()
    return spent / REPEATS


if __name__ == "__main__":
    main()
