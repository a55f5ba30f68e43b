"""Measures a finished run's model on its held-out data: `python scripts/evaluate.py outputs/latest`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # this checkout, whatever else is installed

from runner.errors import Parser, UserError, one_line_errors
from runner.printable import printable
from trainer.project import load


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(description="Measures a run's model on its held-out data.")
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--checkpoint", default="best", help="best (the default), last, a step, or a file")
    args = parser.parse_args(arguments)
    with one_line_errors():
        step, loss, metrics, sample = measure(args.run, args.checkpoint)
    print(f"step {step}: " + "  ".join(f"{name} {value:.4f}" for name, value in {"loss": loss, **metrics}.items()))
    if sample:
        print(f"\n{printable(sample)}")


def measure(folder: Path, which: str = "best") -> tuple[int, float, dict[str, float], str | None]:
    """The checkpoint's step, its loss and metrics on the held-out data, and a sample where there is one.

    Raises UserError if the run, the checkpoint or the data is not there, or the data is not what the run saw.
    """
    from runner.runs import checkpoint
    from trainer import evaluate
    from trainer.state import build
    from trainer.weights import load_weights

    state = build(load(folder))
    path = checkpoint.find(folder, which)
    content = checkpoint.load(path)
    if (facts := content.get("data")) != state.data.facts:
        raise UserError(f"{folder}: the data has changed since this run: {facts} is now {state.data.facts}")
    load_weights(state.model, path)
    return content["step"], *evaluate.evaluate(state), evaluate.sample(state)


if __name__ == "__main__":
    main()
