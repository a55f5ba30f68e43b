"""Measures a run's model on its held-out data: `python scripts/evaluate.py outputs/latest`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # this checkout, whatever else is installed

from runner.errors import Parser, one_line_errors, print_line
from runner.printable import format_loss
from trainer import load


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(description="Measures a run's model on its held-out data.")
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--checkpoint", default="best", help="best (the default), last, a step, or a file")
    parser.add_argument("--data-path", metavar="PATH", help="the data's new path, if its file has moved since the run")
    args = parser.parse_args(arguments)
    with one_line_errors():
        step, loss, metrics, sample = measure(args.run, args.checkpoint, args.data_path)
    values = {"loss": loss, **metrics}
    print_line(f"step {step}: " + "  ".join(f"{name} {format_loss(value)}" for name, value in values.items()))
    if sample:
        print_line(f"\n{sample}")


def measure(
    folder: Path, which: str = "best", data_path: str | None = None
) -> tuple[int, float, dict[str, float], str | None]:
    """The checkpoint's step, its loss and metrics on the held-out data, and a sample if the data set has one.

    Raises UserError if the run, the checkpoint or the data is missing, or if the data has changed since the run.
    """
    from trainer import evaluate

    state = load(folder, which, data_path)
    return state.step, *evaluate.evaluate(state), evaluate.sample(state)


if __name__ == "__main__":
    main()
