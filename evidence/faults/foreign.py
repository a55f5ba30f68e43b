"""Malicious and foreign files where checkpoints, configurations and texts are read."""

import io
import itertools
import logging
import os
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evidence.faults import Tally
from evidence.faults.damage import small_run
from runner.cli.preflight import preflight
from runner.errors import one_line_errors, quote_override
from runner.runs import checkpoint
from scripts import evaluate
from tests.trainer.support import SMALL
from trainer.project import PROJECT, compose, load
from trainer.run import execute_in_folder


class Code:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def saved(content: Any) -> bytes:
    """Serializes an object as torch does."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def checkpoints(good: bytes, mark: Path) -> dict[str, bytes]:
    """Contents of files that are read as checkpoints. Every archive has a correct CRC32 for each record."""
    noise = np.random.default_rng(0).bytes(50_000)
    code, whole = Code(mark), torch.load(io.BytesIO(good), weights_only=True)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(code))
        file.writestr("archive/version", "3\n")
    return {
        "empty": b"", "one byte": b"\0", "random bytes": noise, "text": b"hello\n" * 999,
        "pickle with code": pickle.dumps(code), "torch file with code": saved(whole | {"model": code}),
        "archive with code": archive.getvalue(), "checkpoint of another program": saved({"state_dict": {}}),
        "a list": saved([1, 2]), "a path in it": saved(whole | {"data": Path("x")}),
        "a numpy array in it": saved(whole | {"data": np.zeros(3)}), "another format": saved(whole | {"format": 9}),
        "format 4": saved(without_format(whole)) + f"\ngradclip checkpoint, format 4, sha256 {'0' * 64}\n".encode(),
        "parts missing": saved({"step": 3, "format": checkpoint.FORMAT}),
        "parts of a wrong kind": saved(dict.fromkeys(whole, 7) | {"format": checkpoint.FORMAT}),
        "weights of another shape": saved(whole | {"model": {n: w[:1] for n, w in whole["model"].items()}}),
        "the whole module": saved(torch.nn.Linear(2, 2)), "a gigabyte of zeros": b"sparse",
    }  # fmt: skip


def without_format(content: dict[str, Any]) -> dict[str, Any]:
    """The content without its format number, as in format 4."""
    return {name: value for name, value in content.items() if name != "format"}


def configs(good: str, mark: Path) -> dict[str, bytes]:
    """Contents of files that are read as config.yaml or as an experiment."""
    call = f"!!python/object/apply:os.mkdir ['{mark}']"
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 30))
    return {
        "empty": b"", "binary": bytes(range(256)), "bad UTF-8": good.encode() + b"# \xff\xfe", "a list": b"[1, 2]",
        "a number": b"7", "YAML tag with code": f"seed: {call}".encode(),
        "tag of an object": b"!!python/name:os.system x",
        "tag of a new object": f"model: !!python/object/new:os.mkdir ['{mark}']".encode(),
        "not YAML": b"a: [1", "aliases that grow": bomb.encode(), "deep": b"[" * 5000,
        "a line of a gigabyte": b"sparse",
        "unknown keys": good.encode() + b"\nhello: 1\n", "no model": good.replace("name: rnn", "name: gone").encode(),
        "an object to build": good.encode() + f"\n_target_: os.mkdir\n_args_: ['{mark}']\n".encode(),
    }  # fmt: skip


def put(path: Path, content: bytes) -> None:
    """Writes a file; the content "sparse" becomes a sparse file of a gigabyte of zeros."""
    path.write_bytes(b"" if content == b"sparse" else content)
    if content == b"sparse":
        os.truncate(path, 10**9)


def refused(act: Callable[[], object]) -> str:
    """Describes what was wrong with a refusal, which must be one line and status 2; empty if nothing was."""
    error = io.StringIO()
    try:
        with redirect_stderr(error), redirect_stdout(io.StringIO()), one_line_errors():
            act()
    except SystemExit as end:
        line = error.getvalue()
        ok = end.code == 2 and line.startswith("error: ") and line.count("\n") == 1 and len(line) < 1000
        return "" if ok else f"{end.code}: {line}"
    except BaseException as other:
        return f"{type(other).__name__}: {other}"
    return "it was accepted"


def train_small(folder: Path, *overrides: str) -> None:
    """Trains a small run in a new folder."""
    config = compose(f"data.path={folder}/small.txt", *SMALL, *overrides)
    execute_in_folder(config, Path(tempfile.mkdtemp(dir=folder)) / "run")


def foreign(folder: Path, every: int = 1) -> Tally:
    """Tries every such file wherever its kind is read: resume, initial weights, evaluation, text, experiment.

    every: 1 tries all files, n only every n-th.
    """
    tally = Tally(
        "malicious or foreign checkpoint, configuration or text: code, YAML tags, empty, binary, a gigabyte, bad UTF-8",
        "refused in one line, nothing executed",
    )
    run, mark, file = small_run(folder), folder / "executed", folder / "file.pt"
    best = (run / "checkpoints" / "best.pt").read_bytes()
    settings = (run / "config.yaml").read_text()

    for package in ("runner", "trainer"):
        logging.getLogger(package).addHandler(logging.NullHandler())  # warnings are not part of the refusal

    skipped = itertools.cycle(range(every))

    def count(what: str, act: Callable[[], object]) -> None:
        if next(skipped):
            return
        problem = refused(act) or ("code was run" if mark.exists() else "")
        tally.count(not problem, f"{what}: {problem}")

    for path in run.glob("checkpoints/*.pt"):
        path.unlink()
    config = load(run)
    config.steps = 99
    for what, content in checkpoints(best, mark).items():
        put(file, content)
        put(run / "checkpoints" / "step_9.pt", content)
        count(f"resume, {what}", lambda: execute_in_folder(config, run, resumed=True))
        for damaged in run.glob("checkpoints/*.damaged"):
            damaged.unlink()
        if "model" not in what and what not in ("a path in it",):
            count(f"init_from, {what}", lambda: train_small(folder, f"init_from={file}"))
        count(f"evaluation, {what}", lambda: evaluate.measure(run, str(file)))
    for what, content in configs(settings, mark).items():
        put(run / "config.yaml", content)
        count(f"configuration, {what}", lambda: preflight(PROJECT, ["train.py", f"resume={run}"]))
    for what, content in {"empty": b"", "bad UTF-8": b"abc\xff" * 999, "binary": bytes(range(256)) * 99,
                          "a line of a gigabyte": b"sparse", "safetensors": b"\xff" * 999}.items():  # fmt: skip
        put(folder / "text", content)
        put(folder / "weights.safetensors", content)
        count(f"text, {what}", lambda: train_small(folder, f"data.path={folder}/text"))
        count(f"safetensors, {what}", lambda: train_small(folder, f"init_from={folder}/weights.safetensors"))
    studies = folder / "more" / "experiment"
    studies.mkdir(parents=True)
    searchpath = f"hydra.searchpath=[{quote_override(f'file://{folder}/more')}]"
    for what, content in configs("steps: 3\n", mark).items():
        if what in ("empty", "no model", "a line of a gigabyte", "aliases that grow"):
            continue  # an experiment may be empty, and Hydra reads the whole file and expands aliases
        put(studies / "study.yaml", b"# @package _global_\n" + content)
        count(f"experiment, {what}", lambda: preflight(PROJECT, ["train.py", searchpath, "experiment=study"]))
    return tally
