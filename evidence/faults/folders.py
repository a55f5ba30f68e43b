"""Two processes on the same run folder."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from evidence.faults import Tally, kill, start, start_or_resume, wait_for_a_step
from evidence.faults.kills import RUNS
from runner.runs.status import actual_state
from tests.trainer.support import text_file


def shared(folder: Path, seconds: int, races: int) -> Tally:
    """Starts a second process while one trains; and two that resume the same run at the same time."""
    tally = Tally(
        "two processes on the same run folder",
        "the second is refused in one line, with status 2; the first is not disturbed",
    )
    arguments = [
        f"data.path={text_file(folder)}",
        *RUNS[0],
        "steps=1000000",
        "checkpoint.every=20",
        "checkpoint.keep=1",
    ]
    run = folder / "run"
    first = start_or_resume(run, arguments)
    wait_for_a_step(run, first)

    def second(number: int) -> tuple[int, str]:
        command = [f"resume={run}"] if number % 2 else [*arguments, f"hydra.run.dir={run}"]
        process = start(*command, cwd=folder)
        errors = process.communicate()[1]
        return process.returncode, errors

    with ThreadPoolExecutor(2) as pool:
        for code, errors in pool.map(second, range(seconds)):
            one_line = errors.startswith("error: ") and errors.count("\n") == 1
            tally.count(code == 2 and one_line and first.poll() is None, f"{code}: {errors}")
    if actual_state(run) != "running":
        tally.lost.append(f"its state is reported as {actual_state(run)}")
    kill(first)
    for _ in range(races):
        both = [start(f"resume={run}", cwd=folder) for _ in range(2)]
        loser = None
        while loser is None:
            loser = next((process for process in both if process.poll() is not None), None)
        (winner,) = (process for process in both if process is not loser)
        errors = loser.communicate()[1]
        held = loser.returncode == 2 and "in it" in errors and errors.count("\n") == 1 and wait_for_a_step(run, winner)
        tally.count(held and actual_state(run) == "running", f"race: {loser.returncode}: {errors}")
        kill(winner)
    tally.notes["started at the same time"] = races
    return tally
