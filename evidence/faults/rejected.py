"""Runs that cannot be built: errors that only building can find, not the schema."""

from collections.abc import Sequence
from pathlib import Path

from evidence.faults import Tally, start
from runner.errors import UserError
from runner.runs.status import read_status
from tests.trainer.support import SMALL, text_file
from trainer.project import compose
from trainer.run import execute_in_folder

ERRORS = (
    ("data.path=nothing.txt",),
    ("data.path=empty.txt",),
    ("data.batch_size=4000",),
    ("init_from=nothing.pt",),
    ("init_from=empty.txt",),
    ("clip.include=[nothing.*]",),
    ("model.hidden=1000000",),
    ("device=mps",),
)


def rejected(folder: Path, count: int) -> Tally:
    """Tries the first errors of the list: as a program, in a folder with another file, and from Python."""
    tally = Tally(
        "a run that cannot be built: data, weights, pattern, memory, device",
        "one line and status 2, and the folder removed unless it has other files; from Python, the state rejected",
    )
    (folder / "empty.txt").touch()
    for number, overrides in enumerate(ERRORS[:count]):
        arguments = [f"data.path={text_file(folder)}", *SMALL, *overrides]
        for owned in (False, True):
            tally.count(*_as_program(folder, folder / f"run{number}{owned}", arguments, owned))
        tally.count(*_from_python(folder, folder / f"python{number}", arguments))
    return tally


def _as_program(folder: Path, run: Path, arguments: Sequence[str], owned: bool) -> tuple[bool, str]:
    if owned:
        run.mkdir()
        (run / "notes.txt").touch()
    process = start(*arguments, f"hydra.run.dir={run}", cwd=folder)
    _, errors = process.communicate()
    one_line = errors.startswith("error: ") and errors.count("\n") == 1
    return (
        process.returncode == 2 and one_line and run.exists() == owned,
        f"{arguments[-1]}: {process.returncode}: {errors}",
    )


def _from_python(folder: Path, run: Path, arguments: Sequence[str]) -> tuple[bool, str]:
    config = compose(*(override.replace("=empty.txt", f"={folder}/empty.txt") for override in arguments))
    try:
        execute_in_folder(config, run)
    except UserError as error:
        status = read_status(run)
        return (status["state"], status["reason"]) == ("rejected", str(error)), f"{arguments[-1]}: {status}"
    return False, f"{arguments[-1]}: it was accepted"
