"""What several tests of the trainer need: small runs of the default job."""

from pathlib import Path

from runner.runs.run import RunOutcome
from trainer.project import compose
from trainer.run import execute_in_folder

SMALL = ("model.hidden=8", "model.embedding=4", "data.batch_size=4", "data.window=16", "data.sample=0", "steps=6",
         "evaluate_every=6", "log.progress=false")  # fmt: skip


def text_file(folder: Path, count: int = 4000) -> str:
    """A small text, so that a test need not read the whole default one."""
    path = folder / "small.txt"
    path.write_text("a gradient is a product of factors; clip it, then step.\n" * (count // 56 + 1), encoding="utf-8")
    return str(path)


def train(folder: Path, *overrides: str) -> RunOutcome:
    """A small run in this process, in `folder/run`."""
    return execute_in_folder(compose(f"data.path={text_file(folder)}", *SMALL, *overrides), folder / "run")
