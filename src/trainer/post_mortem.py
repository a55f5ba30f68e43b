"""After a divergence: replays the last steps, finds the cause, tries other settings, and writes the post-mortem."""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from runner.errors import UserError
from runner.printable import count_of, format_loss
from runner.report.commands import has_overrides, repeat_command
from runner.report.first_step import lower_rate
from runner.report.post_mortem import AT_START, Cause, Evidence, find_cause, from_log
from runner.report.post_mortem_text import FILE, Advice, markdown
from runner.report.settings import settings_of
from runner.runs.files import write_atomically
from runner.runs.run import Run
from trainer.config import Train
from trainer.randomness import rng_state, set_rng_state
from trainer.remedies import Attempt, Search, find
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

    evidence, search = from_log(run.folder, settings_of(asdict(config))), None
    try:
        evidence = _replayed(config, run, keep_going) or evidence
        search = _tried(config, run, evidence, find_cause(evidence), keep_going)
    except (UserError, MemoryError, torch.OutOfMemoryError) as error:
        log.warning("warning: the post-mortem is incomplete: %s", " ".join(str(error).split()))
    finally:
        set_rng_state(random)
    cause = find_cause(evidence)
    text = markdown(reason, evidence, cause, advice(config, run, cause, search), remarks(search))
    write_atomically(run.folder / FILE, text.encode())
    return text


def _replayed(config: Train, run: Run, keep_going: Callable[[], bool]) -> Evidence | None:
    if config.post_mortem.replay_steps == 0:
        return None
    evidence = replay(config, run.folder, run.status["step"], keep_going)
    return evidence if evidence is not None and evidence.steps else None


def _tried(config: Train, run: Run, evidence: Evidence, cause: Cause, keep_going: Callable[[], bool]) -> Search | None:
    if config.post_mortem.try_steps == 0 or run.swept:
        return None
    log.info("diverged: other settings are tried for up to %s; post_mortem.try_steps=0 switches this off",
             count_of(config.post_mortem.try_steps, "step"))  # fmt: skip
    return find(config, evidence, cause, keep_going, _checkpoint(config, run))


def _checkpoint(config: Train, run: Run) -> Path | None:
    """The best checkpoint of a run that diverged later than other settings are tried for; None if it has none.

    From the first step on, such a run would have to be repeated in full to show which setting avoids the divergence.
    """
    best = run.folder / "checkpoints" / "best.pt"
    return best if run.status["step"] > config.post_mortem.try_steps and best.is_file() else None


def advice(config: Train, run: Run, cause: Cause, search: Search | None) -> list[Advice]:
    """The commands of the settings with which the run learned, the lowest loss first.

    Without tries, the command with the learning rate that `scripts/suggest_max.py` advises.
    """
    more = [f"steps={config.steps}"] if run.resumed else []  # a resume may have changed it
    rest = "" if has_overrides(run.folder) else " With the other overrides of this run:"
    if search is not None and (search.attempts or not search.ended_early):
        return [
            Advice(repeat_command(run.folder, [*more, *attempt.overrides]), f"{_tried_for(attempt)}{rest}")
            for attempt in _best(search)
        ]
    rate = lower_rate(run.folder, settings_of(asdict(config)), [])
    if cause.name == AT_START or rate is None:
        return []
    return [Advice(repeat_command(run.folder, [*more, f"optimizer.lr={rate:.2g}"]), f"Not tried.{rest}")]


def remarks(search: Search | None) -> list[str]:
    """What else the tries showed: that none learned, that they were ended early, and the other settings."""
    if search is None:
        return []
    best = _best(search)
    none = "" if best or not search.attempts else "With none of the settings that were tried the run learned."
    early = "The tries were ended early, by post_mortem.seconds or a signal." if search.ended_early else ""
    others = [f"- {' '.join(each.overrides)}: {_result(each)}" for each in search.attempts if each not in best]
    listed = "\n".join(["Also tried:" if best else "Tried:", "", *others]) if others else ""
    return [remark for remark in (none, early, listed) if remark]


def _best(search: Search) -> list[Attempt]:
    return sorted((each for each in search.attempts if each.learned), key=lambda each: each.last)[:COMMANDS]


def _tried_for(attempt: Attempt) -> str:
    losses = f"loss {format_loss(attempt.first)} to {format_loss(attempt.last)}, the mean of the last ten"
    return f"Tried for {count_of(attempt.steps, 'step')}: {losses}."


def _result(attempt: Attempt) -> str:
    if attempt.last < float("inf"):
        return f"loss {format_loss(attempt.last)}"
    return f"diverged at step {attempt.steps}"
