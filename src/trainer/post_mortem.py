"""After a divergence: replays the last steps, finds the cause, tries other settings, and writes the post-mortem."""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from runner.errors import UserError
from runner.printable import count_of, format_loss
from runner.report.commands import has_overrides, repeat_command
from runner.report.post_mortem import FILE, Advice, Evidence, find_cause, from_log, markdown
from runner.report.settings import settings_of
from runner.runs.files import write_atomically
from runner.runs.run import Run
from trainer import schedules
from trainer.config import Train
from trainer.randomness import rng_state, set_rng_state
from trainer.remedies import Attempt, Checkpoint, find
from trainer.replay import replay

log = logging.getLogger(__name__)

COMMANDS = 3  # that are printed


def post_mortem(config: Train, run: Run, reason: str) -> str:
    """Writes post_mortem.md into the run's folder, and returns its text. reason: that of the divergence.

    A signal or `post_mortem.seconds` ends the replay and the tries early. Jobs of a sweep try nothing, since the sweep
    itself does. The random state is left as it was.
    """
    random, deadline = rng_state(), time.monotonic() + config.post_mortem.seconds

    def keep_going() -> bool:
        run.heartbeat(run.status["step"])
        return run.stop is None and time.monotonic() < deadline

    evidence, attempts = Evidence(from_log(run.folder), settings_of(asdict(config))), []
    try:
        replayed = (
            replay(config, run.folder, run.status["step"], keep_going) if config.post_mortem.replay_steps else None
        )
        if replayed is not None and replayed.steps:
            evidence = replayed
        cause = find_cause(evidence)
        if config.post_mortem.try_steps and not run.swept:
            log.info("diverged: other settings are tried for up to %s; post_mortem.try_steps=0 switches this off",
                     count_of(config.post_mortem.try_steps, "step"))  # fmt: skip
            attempts = find(config, evidence, cause, keep_going, _checkpoint(config, run))
    except (UserError, MemoryError, torch.OutOfMemoryError) as error:
        log.warning("warning: the post-mortem is incomplete: %s", " ".join(str(error).split()))
        cause = find_cause(evidence)
    finally:
        set_rng_state(random)
    text = markdown(reason, evidence, cause, advice(config, run.folder, attempts), others(attempts))
    write_atomically(run.folder / FILE, text.encode())
    return text


def _checkpoint(config: Train, run: Run) -> Checkpoint | None:
    """The best checkpoint of a run that diverged later than other settings are tried for; None if it has none.

    From the first step on, such a run would have to be repeated in full to show which setting avoids the divergence.
    """
    best, step = run.folder / "checkpoints" / "best.pt", run.status["step"]
    if step <= config.post_mortem.try_steps or not best.is_file():
        return None
    return Checkpoint(best, schedules.build(config.schedule, config.steps)(step))


def advice(config: Train, folder: Path, attempts: Sequence[Attempt]) -> list[Advice]:
    """The commands of the settings with the lowest losses; without any, that of a tenth of the learning rate."""
    found = [attempt for attempt in attempts if math.isfinite(attempt.last)][:COMMANDS]
    rest = "" if has_overrides(folder) else " With the other overrides of this run:"
    if not found:
        lr = f"optimizer.lr={config.optimizer.lr / 10:.2g}"
        note = "Not tried, and all settings that were tried diverged." if attempts else "Not tried."
        return [Advice(repeat_command(folder, [lr]), note + rest)]
    return [
        Advice(repeat_command(folder, attempt.overrides),
               f"Tried for {count_of(attempt.steps, 'step')}: loss {format_loss(attempt.first)} to "
               f"{format_loss(attempt.last)}, the mean of the last ten.{rest}")
        for attempt in found
    ]  # fmt: skip


def others(attempts: Sequence[Attempt]) -> list[str]:
    """A line for each setting that was tried and is not among the commands."""
    shown = [attempt for attempt in attempts if math.isfinite(attempt.last)][:COMMANDS]
    return [
        f"{' '.join(attempt.overrides)}: " + (f"loss {format_loss(attempt.last)}" if math.isfinite(attempt.last)
                                              else f"diverged at step {attempt.steps}")
        for attempt in attempts if attempt not in shown
    ]  # fmt: skip
