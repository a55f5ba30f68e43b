"""Measures what long runs cost: `python evidence/long_runs.py` writes evidence/docs/long_runs.md, in some minutes.

The memory and the event file of 200,000 steps of the smallest model, and the share of the default job's time that
goes into its checkpoints.
"""

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from runner.compose import Composer, checked
from runner.errors import Parser, one_line
from runner.runs.run import read_status

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "evidence" / "docs" / "long_runs.md"
SMALLEST = ("model=linear_net", "data=line", "optimizer.lr=0.01", "log.progress=false")
BYTES = 400  # the most that a step of the smallest model may add to its event file, at the default log.*
GROWTH = 2.0  # MB: what counts as noise in the memory after the first 1,000 steps


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=200_000, help="of the smallest model")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page that is written")
    parser.add_argument("overrides", nargs="*", help="further overrides of the default job")
    args = parser.parse_args(arguments)
    if args.steps < 2000 or not args.page.parent.is_dir():
        parser.error(
            f"--steps={args.steps} --page={args.page}: at least 2,000 steps, and a page in a folder that exists"
        )
    with one_line(args.overrides):
        page = report(args.steps, args.overrides)
    args.page.write_text(page, encoding="utf-8")
    print(page)


def report(steps: int, overrides: list[str]) -> str:
    """The page: the memory at some steps, the bytes of a step, and the checkpoints' share of the time."""
    memory, size = smallest(steps)
    memory = [pair for pair in memory if 0 < pair[0] < steps]  # not what the summary at the end takes once
    marks = sorted({1000, *(steps * share // 20 for share in (1, 5, 10, 15, 20))})
    # The first measurement from a step on; the last one comes a moment before the last step.
    rows = {mark: next((mb for step, mb in memory if step >= mark), memory[-1][1]) for mark in marks}
    late = [mb for step, mb in memory if step >= 1000]
    growth = late[-1] - late[0]
    spent, total, count = checkpoints(overrides)
    lines = [
        "# Long runs",
        "",
        f"Written by `{' '.join(['python', 'evidence/long_runs.py', *overrides])}`.",
        "",
        f"The smallest model, `{' '.join(SMALLEST[:2])}`, for {steps:,} steps, each of them logged:",
        "",
        "| from step | resident memory, MB |",
        "|---|---|",
        *(f"| {step:,} | {mb:.1f} |" for step, mb in rows.items()),
        "",
        f"From step 1,000 on it {'grew' if growth > 0 else 'shrank'} by {abs(growth):.1f} MB; {GROWTH:g} MB count as",
        f"noise. Its event files hold {size / steps:.0f} bytes a step, where at most {BYTES} are meant to be.",
        "",
        "`log.every=10` makes it a tenth. Each parameter of a model adds its two norms at the steps of",
        "`log.parameters_every`: about 60 bytes, and twice as many as its name has letters.",
        "",
        f"The default job{' with ' + ' '.join(overrides) if overrides else ''} spends {1000 * spent:.0f} ms of its "
        f"{total:.1f} s in its {count} checkpoints,",
        f"{100 * spent / total:.2f} % of the time; less than 2 % are meant to be.",
    ]
    return "\n".join(lines) + "\n"


def smallest(steps: int) -> tuple[list[tuple[int, float]], int]:
    """The step and the resident memory in MB, every half second of the program's run; the bytes of its event files."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, str(ROOT / "train.py"), *SMALLEST, f"steps={steps}", f"hydra.run.dir={run}"]
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        found: list[tuple[int, float]] = []
        while process.poll() is None:
            time.sleep(0.5)
            state = Path(f"/proc/{process.pid}/status")
            resident = re.search(r"VmRSS:\s+(\d+)", state.read_text()) if state.exists() else None
            if resident is not None:
                found.append((read_status(run).get("step", 0), int(resident[1]) / 1024))
        if process.returncode:
            raise RuntimeError(f"the run ended with {process.returncode}")
        return found, sum(path.stat().st_size for path in run.glob("events.out.tfevents.*"))


def checkpoints(overrides: list[str]) -> tuple[float, float, int]:
    """Seconds in checkpoints, seconds in all, and the number of checkpoints of the default job."""
    from runner.runs import checkpoint
    from trainer import loop

    spent: list[float] = []

    def timed(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            result = real(*arguments, **named)
            spent.append(time.perf_counter() - started)
            return result

        return call

    composer = Composer(CONF)
    config = checked(composer.compose(composer.quoted(["log.progress=false", *overrides])), overrides)
    notes, write = loop.notes, checkpoint._write
    loop.notes, checkpoint._write = timed(notes), timed(write)
    try:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            loop.run_recorded(config, Path(folder) / "run")
            total = time.perf_counter() - started
    finally:
        loop.notes, checkpoint._write = notes, write
    return sum(spent), total, len(spent) // 2


if __name__ == "__main__":
    main()
