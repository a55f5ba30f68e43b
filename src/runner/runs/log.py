"""The log of a run: messages on stdout, and the same messages with their times in the run's train.log."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from runner.runs.files import is_unwritable

LOG_FILE = "train.log"
TIMED = "%(asctime)s %(levelname)s %(message)s"


def job_output_path(folder: Path) -> Path:
    """The file with the stdout and stderr of the job whose run has this folder."""
    return folder.with_name(f"{folder.name}.log")


class Screen(logging.StreamHandler[TextIO]):
    """Writes messages to stdout. A pipe that its reader has closed, as in `… | head`, does not end the run."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)

    def handleError(self, record: logging.LogRecord) -> None:
        """Ignores an error of writing; logging calls this while it handles the error."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class LogFile(logging.FileHandler):
    """Appends messages to a file. If it cannot be written, that is reported once, and the run continues."""

    def __init__(self, path: Path):
        super().__init__(path, encoding="utf-8")
        self._reported = False

    def handleError(self, record: logging.LogRecord) -> None:
        """Reports the first error of writing; logging calls this while it handles the error."""
        error = sys.exc_info()[1]
        if error is not None and is_unwritable(error) and not self._reported:
            self._reported = True
            assert isinstance(error, OSError)
            print(f"warning: {self.baseFilename}: {error.strerror}; the run continues", file=sys.stderr)
        elif not isinstance(error, OSError):
            super().handleError(record)


def configure(folder: Path) -> None:
    """Sets up logging to stdout and to the run's train.log, at level INFO, or DEBUG with hydra.verbose=true."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    root.setLevel(min(root.level, logging.INFO))
    for handler, style in ((Screen(), "%(message)s"), (LogFile(folder / LOG_FILE), TIMED)):
        handler.setFormatter(logging.Formatter(style))
        root.addHandler(handler)


@contextmanager
def configured(folder: Path) -> Iterator[None]:
    """Sets up logging as `configure` does in the block, and restores the handlers and the level afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        configure(folder)
        yield
    finally:
        for handler in list(root.handlers):
            root.removeHandler(handler)
            handler.close()
        for handler in handlers:
            root.addHandler(handler)
        root.setLevel(level)
