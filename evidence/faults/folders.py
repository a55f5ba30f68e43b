"""Two processes that want the same run folder."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from evidence.faults import Tally, continued, kill, start, trains
from evidence.faults.kills import RUNS
from runner.runs.status import actual_state
from tests.trainer.support import text_file


def shared(folder: Path, seconds: int, races: int) -> Tally:
    """A second process beside one that trains; and two that want to go on with the same run at the same moment."""
    tally = Tally(
        "two processes on the same run folder", "the second is refused in one line, with status 2; the first goes on"
    )
    arguments = [
        f"data.path={text_file(folder)}",
        *RUNS[0],
        "steps=1000000",
        "checkpoint.every=20",
        "checkpoint.keep=1",
    ]
    run = folder / "run"
    first = continued(run, arguments)
    trains(run, first)

    def second(number: int) -> tuple[int, str]:
        again = [f"resume={run}"] if number % 2 else [*arguments, f"hydra.run.dir={run}"]
        process = start(*again, cwd=folder)
        errors = process.communicate()[1]
        return process.returncode, errors

    with ThreadPoolExecutor(2) as pool:
        for code, errors in pool.map(second, range(seconds)):
            one_line = errors.startswith("error: ") and errors.count("\n") == 1
            tally.count(code == 2 and one_line and first.poll() is None, f"{code}: {errors}")
    if actual_state(run) != "running":
        tally.lost.append(f"its state is told as {actual_state(run)}")
    kill(first)
    for _ in range(races):
        both = [start(f"resume={run}", cwd=folder) for _ in range(2)]
        loser = None
        while loser is None:
            loser = next((process for process in both if process.poll() is not None), None)
        (winner,) = (process for process in both if process is not loser)
        errors = loser.communicate()[1]
        held = loser.returncode == 2 and "in it" in errors and errors.count("\n") == 1 and trains(run, winner)
        tally.count(held and actual_state(run) == "running", f"race: {loser.returncode}: {errors}")
        kill(winner)
    tally.notes["both at the same moment"] = races
    return tally
