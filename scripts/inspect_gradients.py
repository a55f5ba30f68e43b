"""Shows a model's first gradients, parameter by parameter: `python scripts/inspect_gradients.py clip=norm clip.max=1`.

Takes the overrides of train.py, trains for a few steps without a run folder, and prints one row per parameter: its
norm, its gradient before and after backward and after clipping, and whether the gradient explodes or vanishes.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # this checkout, whatever else is installed

from runner.errors import Parser, one_line_errors, print_line
from trainer.project import PROJECT, compose


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(description="Shows a model's first gradients, parameter by parameter.")
    parser.add_argument("--steps", type=int, default=1, help="steps to take, of which the last is shown (default: 1)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw a chart: .png, .svg or .pdf (needs matplotlib)")
    parser.add_argument("overrides", nargs="*", help="as for train.py, such as model=lstm clip.max=0.5")
    args = parser.parse_intermixed_args(arguments)
    if args.steps < 1:
        parser.error(f"--steps={args.steps}: must be at least 1")
    with one_line_errors(PROJECT, args.overrides):
        config = compose(*args.overrides)
        from trainer import inspection, inspection_plot

        if args.plot is not None:
            inspection_plot.check_plot(args.plot)
        inspected = inspection.inspect(config, args.steps)
        print_line(inspection.table(inspected, config))
        if inspected.time_steps:
            print_line(inspection.describe_time_decay(inspected.time_steps))
        if args.plot is not None:
            inspection_plot.plot(inspected, args.plot)
            print_line(str(args.plot))


if __name__ == "__main__":
    main()
