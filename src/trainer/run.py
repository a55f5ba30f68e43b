"""One training run, from its configuration to its summary: build, train, finish."""

import logging
import statistics
import time
from dataclasses import asdict
from pathlib import Path

import torch
from omegaconf import OmegaConf

from runner.printable import printable
from runner.report import summary
from runner.report.verdict import Findings, find
from runner.runs import checkpoint
from runner.runs.run import Diverged, Run, RunOutcome, RunStopped
from runner.tracking.tracker import Tracker
from runner.tracking.truncation import truncate_logs
from trainer.config import Train
from trainer.evaluate import sample
from trainer.loop import log_norms, train
from trainer.post_mortem import post_mortem
from trainer.state import TrainState, build, initialize

log = logging.getLogger(__name__)


def execute(config: Train, run: Run) -> None:
    """Builds, trains and summarizes a run in its folder.

    Raises RunStopped if training ended early and, before `run.begin`, UserError for an error in the configuration that
    only building can detect.
    """
    finished = False
    with torch.autograd.set_detect_anomaly(config.detect_anomaly):
        state = build(config)
        facts = state.data.facts
        log.info("data: %s", "; ".join(f"{name} {printable(value)}" for name, value in facts.items()))
        if run.resumed:
            resume(state, run)
        if state.step == 0:
            initialize(state)
        run.begin(config, state.step, state.history.best)
        tracker = Tracker(run.folder, OmegaConf.to_yaml(OmegaConf.create(asdict(config))), facts, after=state.step)
        tracker.begin(run.swept)
        try:
            stopped = _train(state, run, tracker)
            finished = stopped is None
            if isinstance(stopped, Diverged):
                log_norms(state, tracker)
            findings = find(run.folder, asdict(config), clip_seconds(state) if finished else None)
            tracker.conclude(state.step, findings.scalars, findings.text)
            summarize(state, run, stopped, findings)
            if isinstance(stopped, Diverged):
                del state  # the post-mortem builds the model anew
                text = post_mortem(config, run, str(stopped))
                tracker.text("post_mortem", text)
                log.info("\n%s", text)
        finally:
            tracker.close(finished=finished)
    if stopped is not None:
        raise stopped


def _train(state: TrainState, run: Run, tracker: Tracker) -> RunStopped | None:
    """Trains, and returns the exception if training ended early, without its frames, which hold the state."""
    try:
        train(state, run, tracker)
    except RunStopped as reason:
        return reason.with_traceback(None)
    return None


def execute_in_folder(config: Train, folder: Path, *, resumed: bool = False) -> RunOutcome:
    """Executes or resumes a run in a folder from Python, with the same records as on the command line."""
    run = Run(folder, config.steps, resumed=resumed)
    with run.recorded():
        execute(config, run)
    return run.outcome()


def resume(state: TrainState, run: Run) -> None:
    """Restores the state and the run's folder to the newest undamaged checkpoint; without one, to the start of the run.

    Raises UserError if all checkpoints are damaged, or if the newest belongs to another run.
    """
    path, content = checkpoint.load_newest(run.folder) or (None, None)
    if path is not None and content is not None:
        state.load_state_dict(content, path)
    checkpoint.quarantine_corrupt(run.folder, path, state.step)
    truncate_logs(run.folder, content["logs"] if content else {})
    log.info("resumed after step %d from %s", state.step, path.name if path else "no checkpoint")


def clip_seconds(state: TrainState) -> float | None:
    """How long clipping takes at a step, if it limited no logged one; None otherwise, and without clipping.

    The last gradients are clipped five more times, and the median counts.
    """
    has_gradients = any(parameter.grad is not None for parameter in state.model.parameters())
    if state.config.clip.name == "none" or state.history.clipped or not has_gradients:
        return None
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        state.clipper.clip().before.item()  # waits for an accelerator
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def summarize(state: TrainState, run: Run, stopped: RunStopped | None, findings: Findings) -> None:
    """Prints and logs the end-of-run summary."""
    history, unlimited = state.history, state.config.divergence.factor is None
    summary.show(
        run,
        stopped,
        losses=(history.first, history.last) if history.logged else None,
        best=None if history.best is None else (history.best, history.best_step),
        clipped=history.clipped / max(history.logged, 1),
        findings=findings,
        norms=history.before,
        dropped=history.dropped,
        divergence="only non-finite values end the run (divergence.factor=null)" if unlimited else None,
        sample=None if stopped else sample(state),
    )
