"""Checkpoints that were cut off or altered, and files that are none."""

import logging
import random
import shutil
from pathlib import Path
from typing import Any

from evidence.faults import Tally
from runner.errors import UserError
from runner.runs import checkpoint
from runner.runs.run import save_config
from tests.comparison import assert_identical
from tests.trainer.support import SMALL, text_file
from trainer.project import compose
from trainer.run import execute_in_folder


class Heard(logging.Handler):
    """The warnings of a logger."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def small_run(folder: Path, *overrides: str) -> Path:
    """A finished run of 12 steps, with the checkpoints of steps 9 and 12, and a best one."""
    config = compose(f"data.path={text_file(folder)}", *SMALL, "steps=12", "checkpoint.every=3", "evaluate_every=100",
                     "clip=zclip", *overrides)  # fmt: skip
    run = folder / "run"
    run.mkdir(parents=True)
    save_config(config, run)
    execute_in_folder(config, run)
    return run


def damaged(folder: Path, cuts: int, flips: int, none_good: int, seed: int = 0) -> Tally:
    """The newest checkpoint is cut off at every so-manieth of its length, or one of its bits is changed."""
    tally = Tally(
        f"newest checkpoint cut off at every 1/{cuts} of its length ({cuts}), or a bit flipped at a random place "
        f"({flips}), or all of them damaged ({none_good})",
        "the one before is taken and the bad one named, or the changed bit is read by nothing and the content is the "
        "saved one, bit for bit, or it is said that none is good; never a wrong one",
    )
    chance, run = random.Random(seed), small_run(folder)
    path = checkpoint.step_files(run)[-1]
    whole, saved, before = path.read_bytes(), checkpoint.load(path), checkpoint.load(checkpoint.step_files(run)[-2])
    (run / "checkpoints" / "best.pt").unlink()
    versions = [(f"cut at {number}/{cuts}", whole[: len(whole) * number // cuts]) for number in range(cuts)]
    for _ in range(flips):
        place = chance.randrange(len(whole))
        flipped = bytes([whole[place] ^ (1 << chance.randrange(8))])
        versions.append((f"byte {place} of {len(whole)}", whole[:place] + flipped + whole[place + 1 :]))
    for what, content in versions:
        path.write_bytes(content)
        if len(content) == len(whole) and _is_loaded(path, saved):
            tally.count(True, what)
            tally.notes["flips in bytes that nothing reads"] += 1
        else:
            tally.count(_falls_back(run, path, before), what)
    path.write_bytes(whole)
    for number in range(none_good):
        all_bad = folder / f"all_bad{number}"
        shutil.copytree(run, all_bad)
        for each in checkpoint.step_files(all_bad):
            each.write_bytes(each.read_bytes()[: chance.randrange(len(whole))])
        tally.count(_says_none_is_good(all_bad), f"all bad, {number}")
    return tally


def _is_loaded(path: Path, saved: dict[str, Any]) -> bool:
    """Whether the file is accepted and its content is the saved one, bit for bit."""
    try:
        assert_identical(checkpoint.load(path), saved)
    except (UserError, AssertionError):
        return False
    return True


def _falls_back(run: Path, path: Path, before: dict[str, Any]) -> bool:
    heard, logger = Heard(), logging.getLogger("runner.runs.checkpoint")
    logger.addHandler(heard)
    try:
        found = checkpoint.load_newest(run)
        assert found is not None
        assert_identical(found[1], before)
    except (UserError, AssertionError):
        return False
    finally:
        logger.removeHandler(heard)
    return found[0] != path and len(heard.lines) == 1 and str(path) in heard.lines[0]


def _says_none_is_good(run: Path) -> bool:
    try:
        checkpoint.load_newest(run)
    except UserError as mistake:
        return "none of 2 checkpoints is good" in str(mistake)
    return False
