"""Truncated and altered checkpoints."""

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


class WarningCollector(logging.Handler):
    """Collects the warnings of a logger."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def small_run(folder: Path, *overrides: str) -> Path:
    """Trains a run of 12 steps, which leaves the checkpoints of steps 9 and 12, and the best one."""
    config = compose(f"data.path={text_file(folder)}", *SMALL, "steps=12", "checkpoint.every=3", "evaluate_every=100",
                     "clip=zclip", *overrides)  # fmt: skip
    run = folder / "run"
    run.mkdir(parents=True)
    save_config(config, run)
    execute_in_folder(config, run)
    return run


def damaged(folder: Path, cuts: int, flips: int, none_good: int, seed: int = 0) -> Tally:
    """Truncates the newest checkpoint at `cuts` lengths, flips a bit `flips` times, and damages all checkpoints."""
    tally = Tally(
        f"newest checkpoint truncated at every 1/{cuts} of its length ({cuts}), or a bit flipped at a random offset "
        f"({flips}), or all checkpoints damaged ({none_good})",
        "the one before is used and the damaged one named, or the changed bit is not read and the content is "
        "bit-identical to the saved one, or the error says that none is good; never a wrong content",
    )
    chance, run = random.Random(seed), small_run(folder)
    path = checkpoint.step_files(run)[-1]
    whole, saved, before = path.read_bytes(), checkpoint.load(path), checkpoint.load(checkpoint.step_files(run)[-2])
    (run / "checkpoints" / "best.pt").unlink()
    versions = [(f"cut at {number}/{cuts}", whole[: len(whole) * number // cuts]) for number in range(cuts)]
    for _ in range(flips):
        offset = chance.randrange(len(whole))
        flipped = bytes([whole[offset] ^ (1 << chance.randrange(8))])
        versions.append((f"byte {offset} of {len(whole)}", whole[:offset] + flipped + whole[offset + 1 :]))
    for what, content in versions:
        path.write_bytes(content)
        if len(content) == len(whole) and _is_loaded(path, saved):
            tally.count(True, what)
            tally.notes["flips in bytes that are not read"] += 1
        else:
            tally.count(_falls_back(run, path, before), what)
    path.write_bytes(whole)
    for number in range(none_good):
        all_bad = folder / f"all_bad{number}"
        shutil.copytree(run, all_bad)
        for damaged_path in checkpoint.step_files(all_bad):
            damaged_path.write_bytes(damaged_path.read_bytes()[: chance.randrange(len(whole))])
        tally.count(_says_none_is_good(all_bad), f"all bad, {number}")
    return tally


def _is_loaded(path: Path, saved: dict[str, Any]) -> bool:
    """Whether the file is accepted and its content is bit-identical to the saved one."""
    try:
        assert_identical(checkpoint.load(path), saved)
    except (UserError, AssertionError):
        return False
    return True


def _falls_back(run: Path, path: Path, before: dict[str, Any]) -> bool:
    warnings, logger = WarningCollector(), logging.getLogger("runner.runs.checkpoint")
    logger.addHandler(warnings)
    try:
        newest = checkpoint.load_newest(run)
        assert newest is not None
        assert_identical(newest[1], before)
    except (UserError, AssertionError):
        return False
    finally:
        logger.removeHandler(warnings)
    return newest[0] != path and len(warnings.lines) == 1 and str(path) in warnings.lines[0]


def _says_none_is_good(run: Path) -> bool:
    try:
        checkpoint.load_newest(run)
    except UserError as error:
        return "none of 2 checkpoints can be loaded" in str(error)
    return False
