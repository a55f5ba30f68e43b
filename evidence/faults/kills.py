"""SIGKILL at random times, and the signals that interrupt a run."""

import random
import signal
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from evidence.faults import Tally, kill, start, start_or_resume, wait_for_a_step
from runner.runs.status import actual_state, read_status
from tests.comparison import assert_same_run
from tests.trainer.support import text_file

EVERY = ("log.progress=false", "evaluate_every=7", "log.parameters_every=5", "data.batch_size=4", "data.window=64",
         "data.sample=0", "model.hidden=8", "model.embedding=4")  # fmt: skip
RUNS: list[tuple[str, ...]] = [
    (*EVERY, "model=lstm", "model.dropout=0.2", "clip=zclip", "optimizer=adam", "checkpoint.every=1"),
    (*EVERY, "clip=autoclip", "clip.window=20", "optimizer.momentum=0.9", "optimizer.lr=0.1", "micro_batches=2",
     "checkpoint.every=2"),
    ("data=digits", "data.batch_size=64", "data.workers=2", "model=mlp", "model.hidden=[16]", "clip=agc",
     "optimizer=adam", "evaluate_every=7", "checkpoint.every=1"),
    ("data=line", "model=linear_net", "optimizer.lr=0.01", "clip=ema", "clip.warmup=5", "schedule=cosine",
     "evaluate_every=9", "checkpoint.every=3"),
]  # fmt: skip


def sigkill(folder: Path, kills: int, steps: int, seed: int = 0, jobs: int = 2) -> Tally:
    """Kills and resumes every run a number of times, and then trains it to its end."""
    tally = Tally(
        "SIGKILL at a random time, then `resume=`, until the run is finished",
        "the last and the best checkpoint and all points are bit-identical to an uninterrupted run's, no point twice",
    )
    runs = RUNS[: max(1, min(len(RUNS), kills // 4))]
    text = text_file(folder)
    with ThreadPoolExecutor(jobs) as pool:
        shares = [(kills + number) // len(runs) for number in range(len(runs))]
        found = pool.map(lambda job: _killed_run(folder, *job), [
            (number, (*run, f"steps={steps}", *([f"data.path={text}"] if "data=" not in str(run) else [])), share, seed)
            for number, (run, share) in enumerate(zip(runs, shares, strict=True))])  # fmt: skip
        for share, writes, started, problem in found:
            # If a run differs in the end, all of its kills count as lost.
            for _ in range(share):
                tally.count(not problem, problem)
            tally.notes["while a checkpoint was written"] += writes
            tally.notes["before the process's first step"] += started
    tally.notes[f"runs of {steps:,} steps"] = len(runs)
    return tally


def _killed_run(
    folder: Path, number: int, arguments: Sequence[str], kills: int, seed: int
) -> tuple[int, int, int, str]:
    """Returns the number of kills, those while a checkpoint was written, those before a step, and what was wrong."""
    chance, whole, parts = random.Random(f"{seed} {number}"), folder / f"whole{number}", folder / f"parts{number}"
    start_or_resume(whole, arguments).communicate()
    writes = early = killed = 0
    while killed < kills:
        run = start_or_resume(parts, arguments)
        if chance.random() < 0.25:
            time.sleep(chance.uniform(0, 2.5))
            early += not list(parts.glob(f"events*.{run.pid}.*"))
        else:
            wait_for_a_step(parts, run)
            time.sleep(chance.uniform(0, 0.4))
        if run.poll() is not None:
            _, errors = run.communicate()
            if run.returncode == 0 and killed:
                break  # finished before it had all of its kills
            return max(killed, 1), writes, early, f"ended with {run.returncode}: {errors}"
        kill(run)
        killed += 1
        writes += bool(list(parts.glob("checkpoints/.*.part")))
        if (parts / "status.json").exists() and actual_state(parts) != "killed":
            return killed, writes, early, f"its state is reported as {actual_state(parts)}"
    if read_status(parts).get("state") != "finished":
        last = start_or_resume(parts, arguments)
        _, errors = last.communicate()
        if last.returncode or errors:
            return killed, writes, early, f"ended with {last.returncode}: {errors}"
    return killed, writes, early, _difference(whole, parts)


def _difference(whole: Path, parts: Path) -> str:
    try:
        assert_same_run(whole, parts, read_status(whole)["steps"])
    except AssertionError as error:
        return f"not the same run: {error}"
    return ""


CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 138}


def interrupted(folder: Path, times: int, steps: int, seed: int = 0) -> Tally:
    """Interrupts a run by SIGTERM, SIGINT and SIGUSR1 in turn, resumes it each time, and then trains it to its end."""
    tally = Tally(
        "SIGTERM, SIGINT, SIGUSR1 in turn",
        "finishes the step, saves a checkpoint, ends with 143, 130, 138; the resumed run ends bit-identical",
    )
    chance, whole, parts = random.Random(seed), folder / "whole", folder / "parts"
    arguments = [f"data.path={text_file(folder)}", *RUNS[0], f"steps={steps}", "checkpoint.every=1000", "log.every=10",
                 "evaluate_every=100"]  # fmt: skip
    start_or_resume(whole, arguments).communicate()
    for number in list(CODES) * times:
        run = start_or_resume(parts, arguments)
        wait_for_a_step(parts, run)
        time.sleep(chance.uniform(0, 0.3))
        run.send_signal(number)
        _, errors = run.communicate()
        found = read_status(parts)
        held = (run.returncode, errors, found["state"], found["reason"]) == (
            CODES[number],
            "",
            "interrupted",
            number.name,
        )
        held &= (parts / "checkpoints" / f"step_{found['step']}.pt").is_file()
        tally.count(held, f"{number.name}: {run.returncode}, {found}, {errors}")
    start_or_resume(parts, arguments).communicate()
    if difference := _difference(whole, parts):
        tally.lost.append(difference)
    return tally


def sigint_twice(folder: Path, count: int, seed: int = 0) -> Tally:
    """Sends a second SIGINT during an evaluation of several seconds, for which the first SIGINT waits."""
    tally = Tally(
        "a second SIGINT during an evaluation of several seconds", "ends at once, with 130, not after the evaluation"
    )
    chance = random.Random(seed)
    arguments = ["evaluate_every=1", "data.window=1", "data.validation=0.9", "data.sample=0", "model.hidden=256"]
    for number in range(count):
        parts = folder / f"twice{number}"
        run = start(*arguments, f"hydra.run.dir={parts}", cwd=folder)
        wait_for_a_step(parts, run)
        time.sleep(0.5 + chance.uniform(0, 0.2))
        run.send_signal(signal.SIGINT)
        time.sleep(0.2)
        waited = run.poll() is None
        run.send_signal(signal.SIGINT)
        try:
            run.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            run.kill()
        found = read_status(parts)
        evaluated = bool(list(parts.glob("checkpoints/best.pt")))
        held = waited and not evaluated and (run.returncode, found["reason"]) == (130, "SIGINT, twice")
        tally.count(held, f"{run.returncode}; running after the first: {waited}; evaluated: {evaluated}; {found}")
    return tally
