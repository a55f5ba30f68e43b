"""Prints the state of runs and of the jobs of sweeps: `python scripts/status.py outputs/latest`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # this checkout, whatever else is installed

from runner.errors import Parser, UserError, one_line_errors, print_line
from runner.printable import printable
from runner.runs.run import resume_command
from runner.runs.status import read_status
from runner.sweeps.results import read_plan, state_of


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(description="Prints the state of runs and of the jobs of sweeps.")
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs and of sweeps")
    args = parser.parse_args(arguments)
    with one_line_errors():
        for folder in args.runs:
            plan = read_plan(folder)
            for run in [folder] if plan is None else (folder / str(job.number) for job in plan.jobs):
                print_line(f"{run}: {describe(run)}")


def describe(folder: Path) -> str:
    """The state of the run in a folder, in one line. Raises UserError if the folder is not that of a run."""
    state, status = state_of(folder.resolve()), read_status(folder)
    if state is None and read_plan(folder.parent) is not None:
        return "missing, since it has not started"
    if state is None:
        raise UserError(f"{folder}: not the folder of a run; it has no status.json")
    if not status:
        return f"{state}, and has written no status.json yet"
    if state == "duplicate":
        return f"duplicate of job {status.get('duplicate_of')}"
    line = f"{state} at step {status.get('step')} of {status.get('steps')}"
    line += f" ({printable(str(status['reason']), keep='')})" if status.get("reason") else ""
    if state in ("running", "killed"):
        line += f", process {status.get('pid')}, last heartbeat {printable(str(status.get('updated')), keep='')}"
    return line + (f"; {resume_command(folder)}" if state in ("killed", "interrupted", "failed") else "")


if __name__ == "__main__":
    main()
