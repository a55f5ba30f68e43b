"""After a divergence: the replay is the run, the cause is the one built in, and the first command works."""

import logging
import math
import random
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gradclip import ClipByNorm
from runner.report.post_mortem import (
    ABOVE_REACH,
    AT_START,
    CLIPPED_UPDATE,
    EXPLOSION,
    INPUT,
    JUMPED,
    OVERFLOW,
    VANISHING,
    WEIGHTS,
    find_cause,
)
from runner.runs.run import Run
from runner.runs.status import read_status
from runner.tracking import metrics
from tests.trainer.options import require_options
from tests.trainer.support import compose, small_config, warnings
from trainer import data
from trainer.config import Train
from trainer.data import Batch, Dataset
from trainer.post_mortem import remarks
from trainer.remedies import Attempt, Search, as_overrides, find
from trainer.replay import replay
from trainer.run import execute, execute_in_folder

LINE = ("model=linear_net", "data=line", "data.low=-6", "data.high=6", "steps=60", "evaluate_every=60",
        "log.progress=false", "log.gradient_norms=false")  # fmt: skip
COMMAND = re.compile(r"^ +python train\.py (.*)$", re.M)


def always() -> bool:
    return True


def diverge(folder: Path, *overrides: str) -> str:
    """The text of the post-mortem of a run, which diverges."""
    return diverge_as_configured(folder, compose(*overrides))


def diverge_as_configured(folder: Path, config: Train) -> str:
    assert execute_in_folder(config, folder).code == 3
    return (folder / "post_mortem.md").read_text(encoding="utf-8")


def cause_in(text: str) -> str:
    return str(re.findall(r"^Cause: (.*)\.$", text, re.M)[0])


def first_command(text: str) -> list[str]:
    """The overrides of the first command."""
    return shlex.split(COMMAND.findall(text)[0])


@pytest.mark.parametrize(
    ("overrides", "cause"),
    [
        (("clip=none", "optimizer.lr=0.1"), EXPLOSION),
        (("clip=norm", "clip.max=1e6", "optimizer.lr=0.1"), ABOVE_REACH),
        (("clip=norm", "clip.max=30", "optimizer.lr=1"), CLIPPED_UPDATE),
        (("clip=norm", "clip.max=1", "optimizer=adam", "optimizer.lr=10"), CLIPPED_UPDATE),
        (("clip=norm", "clip.max=1", "optimizer=rmsprop", "optimizer.lr=10"), CLIPPED_UPDATE),
    ],
)
def test_the_cause_is_named_and_the_first_command_works(tmp_path: Path, overrides: tuple[str, ...], cause: str) -> None:
    require_options("model=linear_net", "data=line")
    text = diverge(tmp_path / "run", *LINE, *overrides)
    assert cause_in(text) == cause
    assert execute_in_folder(compose(*LINE, *overrides, *first_command(text)), tmp_path / "followed").code == 0
    first, *_, last = (value for _, value in metrics.read(tmp_path / "followed", ["loss/train"])["loss/train"])
    assert last < 0.5 * first


def test_the_text_is_printed_and_in_tensorboard(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    require_options("model=linear_net", "data=line")
    caplog.set_level(logging.INFO)
    text = diverge(tmp_path / "run", *LINE, "clip=none", "optimizer.lr=0.1", "post_mortem.try_steps=0")
    assert text in caplog.text
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    (event,) = events.Tensors("post_mortem/text_summary")
    assert event.tensor_proto.string_val[0].decode() == text


def test_a_vanishing_start(tmp_path: Path) -> None:
    require_options("model=deep_linear", "data=direction")
    text = diverge(tmp_path / "run", "model=deep_linear", "data=direction", "model.gain=0.5", "optimizer=adam",
                   "optimizer.lr=0.1", "steps=50", "log.progress=false", "log.gradient_norms=false")  # fmt: skip
    assert cause_in(text) == VANISHING


class Spoilt(Dataset):
    """A data set of which one batch has its inputs multiplied by a factor."""

    def __init__(self, dataset: Dataset, index: int, factor: float):
        self._dataset, self._index, self._factor = dataset, index, factor
        self.inputs, self.outputs, self.facts = dataset.inputs, dataset.outputs, dataset.facts

    def batches(self, start: int) -> Iterator[Batch]:
        for index, batch in enumerate(self._dataset.batches(start), start=start):
            yield batch._replace(inputs=batch.inputs * self._factor) if index == self._index else batch

    def validation(self) -> Iterator[Batch]:
        return self._dataset.validation()

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self._dataset.loss(outputs, targets)


def spoil(monkeypatch: pytest.MonkeyPatch, index: int, factor: float) -> None:
    build = data.build
    monkeypatch.setattr(data, "build", lambda config, seed: Spoilt(build(config, seed), index, factor))


def test_a_jump_is_traced_to_its_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the step on that batch, the losses of other batches are high."""
    require_options("model=linear_net", "data=line")
    spoil(monkeypatch, 20, 1000.0)
    text = diverge(tmp_path / "run", *LINE, "clip=none", "optimizer.lr=0.01", "data.noise=0.1")
    assert cause_in(text) == JUMPED
    assert "At step 21 (batch 20 of the run, counted from 0)" in text


def test_a_non_finite_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_options("model=linear_net", "data=line")
    spoil(monkeypatch, 20, math.nan)
    text = diverge(tmp_path / "run", *LINE, "clip=none", "optimizer.lr=0.01")
    assert cause_in(text) == INPUT
    assert "The input of step 21 has a nan or infinite element." in text
    assert first_command(text) == ["clip.nonfinite=drop"]
    assert execute_in_folder(compose(*LINE, "optimizer.lr=0.01", *first_command(text)), tmp_path / "followed").code == 0


def test_weights_that_are_non_finite_from_the_start(tmp_path: Path) -> None:
    require_options("model=linear_net", "data=line")
    config = compose(*LINE, "clip=none", "optimizer.lr=0.01")
    assert execute_in_folder(config, tmp_path / "first").code == 0
    path = tmp_path / "first" / "checkpoints" / "step_60.pt"
    content = torch.load(path)
    content["model"]["linear.weight"].fill_(math.inf)
    torch.save(content, path)
    config.init_from = str(path)
    text = diverge_as_configured(tmp_path / "run", config)
    assert cause_in(text) == WEIGHTS
    assert "linear.weight is non-finite before step 1" in text


def test_an_overflow_in_half_precision(tmp_path: Path) -> None:
    """The loss scale of a new run overflows at its first step; without clip.nonfinite=drop this ends the run."""
    require_options("model=deep_linear", "data=direction")
    config = compose("model=deep_linear", "data=direction", "model.gain=1.2", "device.precision=float16",
                     "clip.nonfinite=drop", "log.progress=false", "log.gradient_norms=false", "steps=20")  # fmt: skip
    config.clip.nonfinite = "error"  # a combination that the command line refuses
    text = diverge_as_configured(tmp_path / "run", config)
    assert cause_in(text) == OVERFLOW
    assert "device.precision=float32" in first_command(text)


def diverging(folder: Path, *overrides: str) -> Train:
    """The configuration of a small recurrent run that diverges within its first dozen steps."""
    return small_config(folder, "clip=none", "optimizer.lr=30", "steps=40", *overrides)


@pytest.mark.parametrize("every", [1000, 2])
def test_the_replay_is_the_run(tmp_path: Path, every: int) -> None:
    """Bit by bit: losses, norms, limits and learning rates, from a checkpoint or from the start."""
    require_options("model=rnn", "data=text")
    config = diverging(tmp_path, f"checkpoint.every={every}", "model.dropout=0.3", "model.layers=2",
                       "micro_batches=2", "schedule=linear")  # fmt: skip
    diverge_as_configured(tmp_path / "run", config)
    logged = metrics.read(tmp_path / "run")
    completed = read_status(tmp_path / "run")["step"]
    evidence = replay(config, tmp_path / "run", completed, always)
    assert evidence is not None
    kept = [int(path.stem[5:]) for path in (tmp_path / "run" / "checkpoints").glob("step_*.pt")]
    assert evidence.steps[0].number == max(kept, default=0) + 1
    assert bool(kept) == (every == 2)
    for name, tag in (("before", "grad_norm/before"), ("after", "grad_norm/after"), ("lr", "lr")):
        values = dict(logged[tag])
        for step in evidence.steps:
            if step.number in values:
                assert getattr(step, name) == values[step.number], (name, step.number)
    losses = dict(logged["loss/train"])
    assert [step.loss for step in evidence.steps if step.number in losses] == pytest.approx(
        [losses[step.number] for step in evidence.steps if step.number in losses], rel=1e-6, nan_ok=True
    )
    assert evidence.steps[-1].number in (completed, completed + 1)


def test_a_replay_is_bounded(tmp_path: Path) -> None:
    require_options("model=rnn", "data=text")
    config = diverging(tmp_path)
    diverge_as_configured(tmp_path / "run", config)
    completed = read_status(tmp_path / "run")["step"]
    config.post_mortem.replay_steps = completed
    assert replay(config, tmp_path / "run", completed, always) is None
    config.post_mortem.replay_steps = completed + 1
    assert replay(config, tmp_path / "run", completed, always) is not None
    counts = iter([True, True, False])
    assert replay(config, tmp_path / "run", completed, lambda: next(counts)) is None, "it was ended"


def test_it_can_be_switched_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without a replay and tries, the log alone gives the cause, and a command that is not called tried."""
    require_options("model=linear_net", "data=line")
    text = diverge(tmp_path / "run", *LINE, "clip=none", "optimizer.lr=0.1", "post_mortem.replay_steps=0",
                   "post_mortem.try_steps=0")  # fmt: skip
    assert cause_in(text) == EXPLOSION
    assert "as logged" in text
    ((key, _, rate),) = [override.partition("=") for override in first_command(text)]
    assert key == "optimizer.lr"
    assert 0 < float(rate) <= 0.01
    assert "Not tried." in text
    assert "Tried for" not in text


def test_a_job_of_a_sweep_tries_nothing(tmp_path: Path) -> None:
    require_options("model=linear_net", "data=line")
    run = Run(tmp_path / "run", 60, swept={"optimizer.lr": 0.1})
    with run.recorded():
        execute(compose(*LINE, "clip=none", "optimizer.lr=0.1"), run)
    text = (tmp_path / "run" / "post_mortem.md").read_text()
    assert "replayed" in text
    assert "Tried for" not in text


def test_what_is_tried_ends_in_time(tmp_path: Path) -> None:
    require_options("model=linear_net", "data=line")
    text = diverge(tmp_path / "run", *LINE, "clip=none", "optimizer.lr=0.1", "post_mortem.seconds=0")
    assert "Tried for" not in text
    assert cause_in(text) == EXPLOSION, "from the log"


def test_the_random_state_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the post-mortem: the run itself seeds the generators."""
    require_options("model=linear_net", "data=line")
    seen = []
    monkeypatch.setattr("trainer.run.summarize", lambda *_: seen.append((torch.get_rng_state(), random.getstate())))
    diverge(tmp_path / "run", *LINE, "clip=none", "optimizer.lr=0.1")
    (torch_state, python_state), *_ = seen
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state


def test_an_error_while_settings_are_tried_leaves_the_run_diverged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    require_options("model=linear_net", "data=line")

    def too_large(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr("trainer.post_mortem.find", too_large)
    text = diverge(tmp_path / "run", *LINE, "clip=none", "optimizer.lr=0.1")
    assert "warning: the post-mortem is incomplete: no memory" in warnings(caplog)
    assert cause_in(text) == EXPLOSION


def test_gradients_that_are_non_finite_before_the_first_update(tmp_path: Path) -> None:
    """No learning rate helps, so that none is tried or advised."""
    require_options("model=deep_linear", "data=direction")
    text = diverge(tmp_path / "run", "model=deep_linear", "data=direction", "model.gain=50", "steps=20",
                   "log.progress=false", "log.gradient_norms=false")  # fmt: skip
    assert cause_in(text) == AT_START
    assert not COMMAND.findall(text)
    assert "Tried" not in text


def test_a_setting_with_which_nothing_is_learned_is_no_advice() -> None:
    assert Attempt((), 100, 2.0, 1.97).learned
    assert Attempt((), 100, -2.0, -2.03).learned
    for last in (2.0, 1.99, 2.5, math.inf, math.nan):
        assert not Attempt((), 100, 2.0, last).learned
    assert not Attempt((), 1, math.nan, math.inf).learned


def test_a_late_divergence_is_tried_from_the_best_checkpoint(tmp_path: Path) -> None:
    """At the learning rate at which it diverged, which a schedule from the start would not reach; as it is printed."""
    require_options("model=linear_net", "data=line")
    overrides = ("clip=none", "optimizer.lr=0.3", "schedule.warmup=60", "steps=80", "post_mortem.try_steps=5")
    line = [override for override in LINE if not override.startswith("steps=")]
    text = diverge(tmp_path / "run", *line, *overrides, "evaluate_every=5", "divergence.factor=null")
    first = first_command(text)
    assert first[:2] == [f"init_from={tmp_path / 'run' / 'checkpoints' / 'best.pt'}", "schedule=constant"]
    config = compose(*line, *[each for each in overrides if "schedule" not in each and "clip" not in each], *first)
    tried, shown = re.findall(r"Tried for (\d+) steps: loss .* to (\S+),", text)[0]
    assert tried == "5"
    assert execute_in_folder(config, tmp_path / "followed").code == 0
    losses = [value for _, value in metrics.read(tmp_path / "followed", ["loss/train"])["loss/train"]]
    assert float(shown) == pytest.approx(math.fsum(losses[:5]) / 5, rel=1e-3)


def test_a_threshold_keeps_what_happens_to_non_finite_gradients(tmp_path: Path) -> None:
    """And undoes what an experiment sets besides, since the tried setting has the policy's own defaults."""
    require_options("model=linear_net", "data=line")
    config = compose(*LINE, "clip=none", "optimizer.lr=0.1")
    config.clip = ClipByNorm(max=1e6, nonfinite="drop", scope="layer", exclude=["*bias"])
    text = diverge_as_configured(tmp_path / "run", config)
    first = first_command(text)
    assert {"clip=norm", "clip.nonfinite=drop", "clip.scope=model", "clip.exclude=[]"} <= set(first)
    compose(*LINE, *first)


def search_after(folder: Path, lr: float, keep_going: Callable[[], bool]) -> Search:
    """The search of other settings after a divergence at this learning rate."""
    config = compose(*LINE, "clip=none", f"optimizer.lr={lr}")
    diverge_as_configured(folder, config)
    evidence = replay(config, folder, read_status(folder)["step"], always)
    assert evidence is not None
    return find(config, evidence, find_cause(evidence), keep_going)


def test_tries_that_are_ended_early_say_so(tmp_path: Path) -> None:
    require_options("model=linear_net", "data=line")
    counts = iter([True] * 100 + [False] * 100)
    search = search_after(tmp_path / "run", 0.1, lambda: next(counts))
    assert search.ended_early
    assert "The tries were ended early, by post_mortem.seconds or a signal." in remarks(search)


def test_settings_are_lowered_as_long_as_the_loss_gets_lower(tmp_path: Path) -> None:
    """And the lowest loss is first, those that diverged last, each setting once."""
    require_options("model=linear_net", "data=line")
    search = search_after(tmp_path / "run", 3, always)
    attempts = search.attempts
    assert len({attempt.overrides for attempt in attempts}) == len(attempts) <= 15
    assert all(len({override.partition("=")[0] for override in attempt.overrides}) == len(attempt.overrides)
               for attempt in attempts), "no key twice"  # fmt: skip
    lowest = min(attempts, key=lambda attempt: attempt.last)
    assert search.best is not None
    assert as_overrides(search.best) == lowest.overrides
    assert lowest.learned
    commands = COMMAND.findall((tmp_path / "run" / "post_mortem.md").read_text())
    assert commands[0] == " ".join(lowest.overrides)
    assert len(set(commands)) == len(commands)
