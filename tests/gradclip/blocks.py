"""The Python blocks of the library's README, and how one is run."""

import importlib.util
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

from tests.support import ROOT

PAGE = (ROOT / "src" / "gradclip" / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
# Ends without the interpreter's teardown, in which threads of gloo now and then abort the process.
ONE_OF_SEVERAL = "import os, runpy, sys; runpy.run_path('train.py'); sys.stdout.flush(); os._exit(0)"
PROCESSES = re.compile(r"^# torchrun --nproc-per-node=(\d)")


def titled() -> dict[str, str]:
    """The blocks by the heading that each stands under, with a number where a heading has several."""
    found: dict[str, str] = {}
    title = ""
    for heading, block in re.findall(r"^#{1,3} (.+)$|^```python\n((?s:.*?))^```", PAGE, re.MULTILINE):
        title = heading or title
        if block:
            count = sum(each.startswith(title) for each in found)
            found[f"{title} {count + 1}" if count else title] = block
    return found


def missing_packages(code: str) -> list[str]:
    """The packages that a block imports and that are not installed."""
    imported = set(re.findall(r"^(?:from|import) (\w+)", code, re.MULTILINE))
    imported |= {"lightning"} if "integrations.lightning" in code else set()
    return sorted(name for name in imported if importlib.util.find_spec(name) is None)


def run(code: str, folder: Path, python: str = sys.executable, path: str = "") -> list[str]:
    """Runs a block, in as many processes as its first line says; returns what each printed. path: the PYTHONPATH."""
    (folder / "train.py").write_text(code, encoding="utf-8")
    chosen = PROCESSES.search(code)
    size = int(chosen[1]) if chosen else 1
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    settings = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": str(size), "OMP_NUM_THREADS": "1"}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | settings
    environment |= {"PYTHONPATH": path} if path else {}
    command = [python, "-c", ONE_OF_SEVERAL] if size > 1 else [python, "train.py"]
    running = [
        subprocess.Popen(command, cwd=folder, env=environment | {"RANK": str(rank)}, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for rank in range(size)
    ]  # fmt: skip
    ended = [(*process.communicate(timeout=120), process.returncode) for process in running]
    for _, error, status in ended:
        assert status == 0, error
    return [printed for printed, _, _ in ended]
