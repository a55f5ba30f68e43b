"""Searches the toy: `python tune.py FOLDER TRIALS SEED [key=value] …`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))
sys.path.insert(0, str(Path(__file__).parents[3] / "src"))

from runner.compose import Composer
from runner.errors import one_line
from runner.sweeps import search
from tests.runner.toy.toy import PROJECT

if __name__ == "__main__":
    folder, trials, seed, *overrides = sys.argv[1:]
    with one_line(PROJECT, overrides):
        composer = Composer(PROJECT)
        space = search.space(composer, overrides)
        search.check(composer, space)
        storage = f"sqlite:///{folder}/study.db"
        print(search.run(search.Search(Path(folder), storage, int(trials), space, composer, int(seed))))
