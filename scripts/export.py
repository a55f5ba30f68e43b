"""Exports a run's weights for other programs: `python scripts/export.py outputs/latest`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # this checkout, whatever else is installed

from runner.errors import Parser, one_line_errors, print_line


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(description="Exports a run's weights to a safetensors file.")
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--checkpoint", default="best", help="best (the default), last, a step, or a file")
    parser.add_argument("--to", type=Path, help="the file to write (default: model.safetensors in the run's folder)")
    args = parser.parse_args(arguments)
    with one_line_errors():
        path = export(args.run, args.checkpoint, args.to)
    print_line(str(path))


def export(folder: Path, which: str = "best", to: Path | None = None) -> Path:
    """Writes the weights of a run's checkpoint to a file, and returns its path.

    Raises UserError if the checkpoint is missing or damaged.
    """
    from runner.runs import checkpoint, weights
    from runner.runs.run import check_run

    path = checkpoint.find(folder, which)
    if not path.is_file():
        check_run(folder)
    content = checkpoint.load(path)
    to = to or folder / "model.safetensors"
    weights.write_weights(to, weights.weights_in(content, path), {"format": "pt", "step": str(content["step"])})
    return to


if __name__ == "__main__":
    main()
