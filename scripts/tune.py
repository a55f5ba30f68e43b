"""Searches a policy and its threshold with Optuna: `python scripts/tune.py --trials 30 clip=norm,value`.

Values to choose from and intervals are searched, everything else is fixed:

    python scripts/tune.py clip=norm,autoclip 'optimizer.lr=tag(log,interval(0.3,10))' steps=500

Without `clip` four policies are searched, each with its threshold. The study lies in outputs/studies/<name>; the
same command continues it, and several processes may share it. Needs Optuna (extra `tune`).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # this checkout, whatever else is installed

from runner.compose import Composer
from runner.errors import Parser, one_line
from runner.sweeps import search as tune
from trainer.project import PROJECT


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(description="Searches a policy and its threshold with Optuna.")
    parser.add_argument("--name", default="tune", help="of the study; the same name continues it")
    parser.add_argument("--trials", type=int, default=30, help="that the study has in the end, from all processes")
    parser.add_argument("--storage", help="Optuna's storage URL, for several machines; SQLite in the study's folder")
    parser.add_argument("--folder", type=Path, default=Path("outputs") / "studies", help="of all studies")
    parser.add_argument("--sampler-seed", type=int, help="makes the search of one process repeatable")
    parser.add_argument("overrides", nargs="*", help="as for train.py; lists and intervals are searched")
    args = parser.parse_intermixed_args(arguments)
    with one_line(PROJECT, args.overrides):
        tune.need_optuna()
        if args.trials < 1:
            parser.error(f"--trials={args.trials}: at least one")
        if not args.name:
            parser.error("--name: is the study's folder, and cannot be empty")
        composer = Composer(PROJECT)
        space = tune.space(composer, args.overrides)
        tune.check(composer, space)
        folder = args.folder / args.name
        storage = args.storage or f"sqlite:///{folder / 'study.db'}"
        search = tune.Search(folder, storage, args.trials, space, composer, args.sampler_seed)
        try:
            print(tune.run(search))
        except KeyboardInterrupt as end:
            sys.exit(128 + (end.args[0] if end.args and end.args[0] else 2))


if __name__ == "__main__":
    main()
