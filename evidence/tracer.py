"""Runs `python train.py …` of a checkout under a profile function: `python evidence/tracer.py RESULT TRAIN_PY …`.

It counts calls up to the first step of a torch optimizer and writes the counts to RESULT as JSON; then it stops
counting, and the program runs to its end. A generator counts each time it is resumed.
"""

import inspect
import json
import runpy
import sys
import threading
from collections import Counter
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

COMPREHENSIONS = {"<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>"}  # separate functions only before Python 3.12
HYDRA_MAIN = ("hydra/main.py", "hydra/_internal/hydra.py", "hydra/_internal/utils.py", "hydra/core/utils.py")


class Tracer:
    """A profile function that counts calls.

    script: the checkout's train.py, in the same folder as `src`. result: the file that is written at the first step.
    """

    def __init__(self, script: Path, result: Path):
        self._script, self._result = script, result
        self._calls: Counter[CodeType] = Counter()
        self._compositions = 0
        self._passes = 0
        self.part_of = cache(self._part_of)

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event != "call":
            return
        code = frame.f_code
        path = code.co_filename
        if code.co_name == "step" and "/torch/optim/" in path and not path.endswith("/lr_scheduler.py"):
            self._stop()
        elif code.co_name == "load_configuration" and path.endswith("/hydra/_internal/config_loader_impl.py"):
            self._compositions += 1
        elif is_function(code) and self._is_own(path):
            self._calls[code] += 1
        if (part := self.part_of(path)) and code.co_name != "<module>":
            self._passes += caller_part(frame, self) not in (None, part)

    def _is_own(self, path: str) -> bool:
        return path == str(self._script) or path.startswith(f"{self._script.parent / 'src'}/")

    def _part_of(self, path: str) -> str | None:
        """The part of the command line that a file belongs to: train.py, cli or Hydra; None for any other file."""
        if path == str(self._script):
            return "train.py"
        if self._is_own(path) and ("/cli/" in path or path.endswith("/cli.py")):
            return "cli"
        return "Hydra" if path.endswith(HYDRA_MAIN) else None

    def _stop(self) -> None:
        sys.setprofile(None)
        threading.setprofile(None)
        if not self._result.exists():  # another thread may have written it first
            counts = {
                "compositions": self._compositions,
                "functions": len(self._calls),
                "calls": self._calls.total(),
                "passes": self._passes,
            }
            self._result.write_text(json.dumps(counts), encoding="utf-8")


def is_function(code: CodeType) -> bool:
    """Whether the code is that of a `def` or a lambda, not of a module, a class body or a comprehension."""
    return bool(code.co_flags & inspect.CO_OPTIMIZED) and code.co_name not in COMPREHENSIONS


def caller_part(frame: FrameType, tracer: Tracer) -> str | None:
    """The part, as in `Tracer.part_of`, of the nearest caller that has one."""
    caller = frame.f_back
    while caller is not None:
        if part := tracer.part_of(caller.f_code.co_filename):
            return part
        caller = caller.f_back
    return None


def main(result: str, script: str, *arguments: str) -> None:
    path = Path(script).resolve()
    sys.argv[:] = [str(path), *arguments]
    sys.path[0] = str(path.parent)
    tracer = Tracer(path, Path(result))
    threading.setprofile(tracer)
    sys.setprofile(tracer)
    runpy.run_path(str(path), run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
