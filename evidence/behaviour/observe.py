"""Runs a case and records its observable behaviour: statuses, messages, files, tags, points, weights.

Imports nothing of the project but the cases, since two checkouts of it are compared.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util.tensor_util import make_ndarray
from torch import Tensor

from evidence.behaviour.cases import INPUTS, Case, Command

TIMEOUT = 120.0  # seconds for one command
VALUES = "loss/train"  # the tag whose values are recorded; of the others only the number of points
HIDDEN = "(hidden)"  # replaces output that depends on timing
STATUS = ("state", "step", "steps", "objective", "reason", "duplicate_of")
RUN_NAME = r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_[0-9a-f]{6}"
# Replaces what differs between executions of the same command.
NORMAL = (
    (RUN_NAME, "<run>"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d([.,]\d+)?(\+00:00|Z)?", "<time>"),
    (r"events\.out\.tfevents\.[\w.-]+", "events.out.tfevents.<id>"),
    (r"\b(process|pid) \d+", r"\1 <pid>"),
    (r"\b\d+(\.\d+)? ?(ms|s|seconds?|minutes?)\b", "<duration>"),
    (r" +$", ""),
    (r"(?<=\S) {2,}", "  "),  # column widths depend on the longest path
)


def observe(case: Case, checkout: Path, folder: Path) -> dict[str, str]:
    """Runs the case's commands in a new folder, and returns the observed values by field."""
    folder.mkdir(parents=True)
    for name, content in INPUTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    found: dict[str, str] = {}
    for number, command in enumerate(case.commands, start=1):
        code, out, err = run(command, checkout, folder)
        texts = {"message": message(err), "output": out}
        title = f"command {number} ({command.program}) " if len(case.commands) > 1 else ""
        found[f"{title}exit"] = code
        for name, text in texts.items():
            found[title + name] = re.sub(command.hidden, HIDDEN, normal(text, checkout, folder))
    return found | files(folder) | contents(folder)


def run(command: Command, checkout: Path, folder: Path) -> tuple[str, str, str]:
    """The exit status (negative: the signal), stdout and stderr of a command."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HYDRA_")}
    environment |= {"PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    environment |= dict(command.environment)
    arguments = [sys.executable, str(checkout / command.program), *command.arguments]
    with subprocess.Popen(arguments, cwd=folder, env=environment, text=True, errors="replace",
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          start_new_session=True) as process:  # fmt: skip
        if command.stop is not None:
            number, pattern = command.stop
            deadline = time.monotonic() + TIMEOUT
            while process.poll() is None and time.monotonic() < deadline and not any(folder.glob(pattern)):
                time.sleep(0.005)
            process.send_signal(number)
        try:
            out, err = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            return f"none within {TIMEOUT:g} s", *process.communicate()
    return str(process.returncode), out, err


def message(err: str) -> str:
    """The text of stderr; of a traceback only the last line, since the others contain line numbers."""
    lines = err.strip().splitlines()
    return f"traceback: {lines[-1]}" if any(line.startswith("Traceback ") for line in lines) else "\n".join(lines)


def normal(text: str, checkout: Path, folder: Path) -> str:
    """Replaces the paths, times and process numbers of this execution in a text."""
    for path, name in ((folder, "<here>"), (checkout, "<project>"), (Path(sys.prefix), "<python>")):
        text = text.replace(str(path), name)
    for pattern, name in NORMAL:
        text = re.sub(pattern, name, text, flags=re.MULTILINE)
    return text.strip()


def files(folder: Path) -> dict[str, str]:
    """Lists every file, link and empty folder that the commands left, with the count of its normalized name."""
    names: Counter[str] = Counter()
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            names[f"{name} -> {path.readlink()}"] += 1
        elif path.is_file() and name not in INPUTS:
            names[name] += 1
        elif path.is_dir() and not any(path.iterdir()):
            names[f"{name}/"] += 1
    found: Counter[str] = Counter()
    for name, count in names.items():
        found[normal(name, folder, folder)] += count
    return {f"file {name}": f"{count} times" if count > 1 else "present" for name, count in found.items()}


def contents(folder: Path) -> dict[str, str]:
    """Reads the status files, event files, checkpoints and exported weights, by run folder."""
    found: dict[str, str] = {}
    for run_folder in sorted({path.parent for path in folder.glob("**/status.json")}):
        name = normal(str(run_folder.relative_to(folder)), folder, folder)
        status = json.loads((run_folder / "status.json").read_text(encoding="utf-8"))
        shown = [f"{key} {status[key]}" for key in STATUS if status.get(key) is not None]
        seen = {"status": ", ".join(shown), **points(run_folder)}
        checkpoints = sorted(run_folder.glob("checkpoints/step_*.pt"), key=lambda path: int(path.stem[5:]))
        if checkpoints:
            seen["weights last"] = in_checkpoint(checkpoints[-1])
        if (best := run_folder / "checkpoints" / "best.pt").exists():
            seen["weights best"] = in_checkpoint(best)
        for key, value in seen.items():
            if f"{name} {key}" in found:
                raise ValueError(f"{name}: two runs of one case have this name once it is normalized")
            found[f"{name} {key}"] = normal(value, folder, folder)
    for path in sorted(folder.rglob("*.safetensors")):
        found[f"{normal(str(path.relative_to(folder)), folder, folder)} weights"] = digest(load_file(path))
    return found


def points(run_folder: Path) -> dict[str, str]:
    """Counts the points of every tag in a run's event files, and lists the values of the tag VALUES."""
    counts: Counter[str] = Counter()
    values: list[str] = []
    for path in sorted(run_folder.glob("events.out.tfevents.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                counts[value.tag] += 1
                if value.tag == VALUES:
                    values.append(f"{make_ndarray(value.tensor).item():.9g}")
    found = {f"points {tag}": str(count) for tag, count in counts.items()}
    return found | ({f"values {VALUES}": " ".join(values)} if values else {})


def in_checkpoint(path: Path) -> str:
    """The digest of the model's weights in a checkpoint."""
    with warnings.catch_warnings(action="ignore"):
        content = torch.load(path, map_location="cpu", weights_only=True)
    return digest(content["model"]) if "model" in content else f"no model among {', '.join(sorted(content))}"


def digest(weights: dict[str, Tensor]) -> str:
    """SHA-256 of the names, types, shapes and bytes of all tensors."""
    hashed = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hashed.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()
