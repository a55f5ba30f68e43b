"""Full disks and files that reach a size limit."""

import random
import resource
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from evidence.faults import Tally, start, start_or_resume
from evidence.faults.kills import RUNS
from runner.runs import checkpoint
from runner.runs.status import read_status
from runner.tracking.truncation import log_lengths
from tests.comparison import assert_same_run
from tests.trainer.support import text_file

STEPS = 120


def full(folder: Path, limits: int, disks: int, logs: int, seed: int = 0, jobs: int = 2) -> Tally:
    """Limits the size of files (RLIMIT_FSIZE), mounts a small tmpfs if it can, and links the log to /dev/full."""
    tally = Tally(
        "write error: a file reaches its size limit, a tmpfs is full, the log is on /dev/full",
        "one line that names the file, status 1, the last checkpoint good; once there is room, the resumed run ends "
        "bit-identical (a log that cannot be written gives one warning and does not end the run)",
    )
    rng, reference = random.Random(seed), folder / "reference"
    arguments = [
        f"data.path={text_file(folder)}",
        *RUNS[0],
        f"steps={STEPS}",
        "checkpoint.every=5",
        "checkpoint.keep=99",
        "log.parameters_every=1",
    ]
    start_or_resume(reference, arguments).communicate()
    largest = max(path.stat().st_size for path in reference.glob("checkpoints/*.pt"))
    longest = max(log_lengths(reference).values())
    # A limit below the size of a checkpoint fails the first checkpoint; one above it fails the larger log, later.
    assert longest > 2 * largest
    ranges = [(largest // 4, largest), (largest + 1, longest), (largest + 1, longest)]
    sizes = [rng.randrange(*ranges[number % 3]) for number in range(limits)]
    with ThreadPoolExecutor(jobs) as pool:
        for what, problem in pool.map(lambda job: _limited(folder, reference, arguments, *job), enumerate(sizes)):
            tally.count(not problem, f"{what}: {problem}")
            tally.notes[f"{what} at the size limit"] += 1
        for what, problem in pool.map(
            lambda number: _small_disk(folder, reference, arguments, number, largest * rng.randrange(2, 9)),
            range(disks),
        ):
            if what:
                tally.count(not problem, f"{what}: {problem}")
            tally.notes[f"{what} on a full tmpfs" if what else "tmpfs that could not be mounted"] += 1
    for number in range(logs):
        tally.count(*_no_log(folder, arguments, number))
        tally.notes["log on /dev/full"] += 1
    return tally


def _limited(folder: Path, reference: Path, arguments: Sequence[str], number: int, size: int) -> tuple[str, str]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return _until_done(folder / f"limited{number}", reference, arguments, limit, lambda: None)


def _small_disk(folder: Path, reference: Path, arguments: Sequence[str], number: int, size: int) -> tuple[str, str]:
    """Trains in a run folder on a tmpfs that has room for a few checkpoints."""
    disk = folder / f"disk{number}"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if made.returncode:
        return "", ""
    try:
        more_room = ["mount", "-o", "remount,size=100m", str(disk)]
        return _until_done(disk / "run", reference, arguments, None, lambda: subprocess.run(more_room, check=True))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _until_done(
    folder: Path,
    reference: Path,
    arguments: Sequence[str],
    limit: Callable[[], None] | None,
    relieve: Callable[[], object],
) -> tuple[str, str]:
    """Trains until a write fails, makes room, resumes; returns what failed to be written, and what was wrong."""
    run = start_or_resume(folder, arguments, preexec_fn=limit)
    _, errors = run.communicate()
    lines = [line for line in errors.splitlines() if not line.startswith("warning: ")]
    what = next(
        (name for name in ("events", "metrics.jsonl", "checkpoints", "status.json", "config.yaml") if name in errors),
        "nothing",
    )
    if run.returncode != 1 or len(lines) != 1 or not lines[0].startswith("error: ") or what == "nothing":
        return what, f"ended with {run.returncode}: {errors}"
    for path in checkpoint.step_files(folder):
        checkpoint.load(path)  # all of them are good
    if list((folder / "checkpoints").glob(".*.part")):
        return what, "a partial checkpoint was left"
    relieve()
    rest = start_or_resume(folder, arguments)
    _, errors = rest.communicate()
    if rest.returncode:
        return what, f"was not resumed: {rest.returncode}: {errors}"
    try:
        assert_same_run(reference, folder, STEPS)
    except AssertionError as error:
        return what, f"not the same run: {error}"
    return what, ""


def _no_log(folder: Path, arguments: Sequence[str], number: int) -> tuple[bool, str]:
    """Resumes a run whose log was replaced by a link to /dev/full, since a new run refuses a folder with a log."""
    run = folder / f"unlogged{number}"
    start(*arguments, "steps=5", f"hydra.run.dir={run}", cwd=folder).communicate()
    (run / "train.log").unlink()
    (run / "train.log").symlink_to("/dev/full")
    process = start(f"resume={run}", f"steps={STEPS}", cwd=folder)
    _, errors = process.communicate()
    held = process.returncode == 0 and errors.count("\n") == 1 and "train.log: No space left" in errors
    status = read_status(run)
    held = held and (status.get("state"), status.get("step")) == ("finished", STEPS)
    return held, f"log: {process.returncode}: {errors}"
