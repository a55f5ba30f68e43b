"""Measures clipping, logging and start-up; every subcommand writes its section of evidence/docs/benchmarks.md.

python evidence/benchmark.py clip       clipping with both norms, against torch's clipping alone
python evidence/benchmark.py engine     `clip()` against torch's functions, and an earlier commit's
python evidence/benchmark.py policies   every policy against the passes that its formula needs
python evidence/benchmark.py rows       the length of the chunks whose squares are summed in float32
python evidence/benchmark.py growth     against the number of parameters and of tensors: a plot
python evidence/benchmark.py step       whole training steps, against a hand-written loop
python evidence/benchmark.py log        200 scalars a step
python evidence/benchmark.py start      from the command to the first step
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from evidence import pages
from evidence.benchmarks import clip, engine, growth, log, policies, rows, start, step

PAGE = pages.DOCS / "benchmarks.md"
COMMANDS = {"clip": clip, "engine": engine, "policies": policies, "rows": rows, "growth": growth, "step": step,
            "log": log, "start": start}  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = pages.parser(__doc__, PAGE)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=(module.__doc__ or "").split("\n", 1)[0])
        module.arguments(command)
        command.set_defaults(run=module.run)
    args = parser.parse_args(arguments)
    pages.write(args.page, {args.command: args.run(args)})


if __name__ == "__main__":
    main()
