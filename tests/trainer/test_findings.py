"""What a run logs and prints at its end on clipping and on spikes, and to which policies the advice applies."""

import logging
import shlex
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from runner.report.advice import advise
from runner.report.fit import misfit
from runner.report.settings import settings_of
from runner.report.verdict import of_run
from runner.runs.run import save_config
from runner.runs.status import initial_status, write_status
from runner.tracking import metrics
from scripts.suggest_max import clip_of
from tests.comparison import assert_same_run, points, shown_scalars
from tests.trainer.options import option_names, require_options
from tests.trainer.resumption import end_at_steps, run_until_finished
from tests.trainer.support import compose
from trainer.config import Train
from trainer.run import execute_in_folder

STEPS = 160
LINE = ("data=line", "model=linear_net", "data.noise=0.5", "optimizer=sgd", f"steps={STEPS}", "evaluate_every=80",
        "checkpoint.every=80", "log.parameters_every=80", "log.progress=false", "log.gradient_norms=false")  # fmt: skip
SCORES = {"spike_score/loss": "loss/train", "spike_score/grad_norm": "grad_norm/before"}


def line_run(*overrides: str) -> Train:
    require_options(*LINE, *overrides)
    return compose(*LINE, *overrides)


def clipping_texts(folder: Path) -> list[tuple[int, str]]:
    """The steps and texts of the tag `clipping`, as TensorBoard reads them."""
    events = EventAccumulator(str(folder))
    events.Reload()
    tag = "clipping/text_summary"
    return [(each.step, make_ndarray(each.tensor_proto).item().decode())
            for each in (events.Tensors(tag) if tag in events.Tags()["tensors"] else [])]  # fmt: skip


def score(values: list[float]) -> float:
    """The share of the values after the first 128 that exceed the mean of 128 before them by 6 deviations."""
    judged = range(128, len(values))
    windows = [np.array(values[index - 128 : index]) for index in judged]
    spikes = sum(values[i] > float(w.mean() + 6 * w.std()) for i, w in zip(judged, windows, strict=True))
    return spikes / len(judged)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("clip=norm", "clip.max=1e-3"), "100.0 % of the logged steps; step limiter, 100 % of the last fifth: the "
         "length of a step of sgd is learning rate x clip.max, so that changing one changes the other"),
        (("clip=norm", "clip.max=1e6"), "0.0 % of the logged steps; inactive: no logged step was limited"),
        (("clip=autoclip", "clip.percentile=50"), "; limit: it moved from "),
        (("clip=none",), None),
    ],
    ids=["step limiter", "inactive", "autoclip", "none"],
)  # fmt: skip
def test_a_run_logs_and_prints_what_clipping_did(
    overrides: tuple[str, ...], words: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = line_run("optimizer.lr=0.01", *overrides)
    save_config(config, tmp_path)
    with caplog.at_level(logging.INFO):
        assert execute_in_folder(config, tmp_path).state == "finished"
    summary = next(line for line in caplog.messages if line.startswith("\nstate"))
    logged = metrics.read(tmp_path)
    for tag, judged in SCORES.items():
        expected = score([value for _, value in logged[judged]])
        assert logged[tag] == [(STEPS, expected)]
        assert shown_scalars(tmp_path)[tag] == [(STEPS, pytest.approx(expected))]
        assert f"{100 * expected:.2g} % ({tag})" in summary
    text = of_run(tmp_path)
    assert clipping_texts(tmp_path) == ([] if text is None else [(STEPS, text)])
    inactive = text is not None and "inactive" in text
    assert [step for step, _ in logged.get("clip/cost", [])] == ([STEPS] if inactive else [])
    assert "clip/cost" not in shown_scalars(tmp_path), "the parallel coordinates hide runs that lack a scalar"
    if inactive:
        assert f"; clipping took {100 * logged['clip/cost'][0][1]:.2g} % of a step's time" in text
    assert (text is None) == (words is None)
    assert text is None or (words or "") in text
    assert ("\nlimit        it moved from " in summary) == ("clip=autoclip" in overrides)
    if text is not None:
        assert f"\nclipped      {text.partition('; limit')[0]}" in summary
    if "clip=autoclip" in overrides:
        limits = [value for _, value in logged["clip/limit"]]
        assert text is not None
        assert (
            f"moved from {limits[0]:.3g} to {limits[-1]:.3g}, between {min(limits):.3g} and {max(limits):.3g}" in text
        )


def test_a_run_of_few_steps_has_no_spike_score(tmp_path: Path) -> None:
    config = line_run("optimizer.lr=0.01", "clip=norm")
    config.steps = 128
    execute_in_folder(config, tmp_path)
    assert not SCORES.keys() & metrics.read(tmp_path).keys()
    assert [step for step, _ in clipping_texts(tmp_path)] == [128]


def test_a_resumed_run_has_one_spike_score_and_one_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After two signals and a kill, each later than the first step that is judged, it equals the uninterrupted run."""
    config = line_run("optimizer.lr=0.01", "clip=autoclip")
    execute_in_folder(config, tmp_path / "uninterrupted")
    end_at_steps(monkeypatch, {135: signal.SIGTERM, 140: signal.SIGINT, 150: None})
    ends = run_until_finished(config, tmp_path / "resumed")
    assert ends == ["interrupted", "interrupted", "killed", "finished"]
    assert_same_run(tmp_path / "uninterrupted", tmp_path / "resumed", STEPS)
    for tag in (*SCORES, "clipping/text_summary"):
        assert [step for each, step, _ in points(tmp_path / "resumed") if each == tag] == [STEPS], tag
    lines = (tmp_path / "resumed" / "metrics.jsonl").read_text().splitlines()
    assert sum("spike_score" in line for line in lines) == 1


def test_an_interrupted_run_and_one_that_is_trained_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted run has its findings, since it may not be resumed; a longer one replaces them."""
    config = line_run("optimizer.lr=0.01", "clip=norm", "checkpoint.every=1000")
    end_at_steps(monkeypatch, {140: signal.SIGTERM})
    assert execute_in_folder(config, tmp_path).state == "interrupted"
    assert [step for step, _ in metrics.read(tmp_path)["spike_score/loss"]] == [141]  # the step in progress is the last
    assert execute_in_folder(config, tmp_path, resumed=True).state == "finished"
    config.steps = STEPS + 10
    assert execute_in_folder(config, tmp_path, resumed=True).state == "finished"
    assert [step for step, _ in metrics.read(tmp_path)["spike_score/loss"]] == [STEPS + 10]
    assert [step for step, _ in clipping_texts(tmp_path)] == [STEPS + 10]


def test_a_run_that_diverged_has_its_findings(tmp_path: Path) -> None:
    config = line_run("optimizer.lr=100", "clip=norm", "clip.max=1e3")
    assert execute_in_folder(config, tmp_path).state == "diverged"
    (found,) = clipping_texts(tmp_path)
    assert "% of the logged steps; " in found[1]


@pytest.mark.parametrize("diverges", [True, False])
def test_a_run_draws_its_norms_at_evaluations_and_at_a_divergence(diverges: bool, tmp_path: Path) -> None:
    config = line_run(
        "clip=norm", "clip.max=1e3", "log.gradient_norms=true", f"optimizer.lr={100 if diverges else 0.01}"
    )
    outcome = execute_in_folder(config, tmp_path)
    assert outcome.state == ("diverged" if diverges else "finished")
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    last = metrics.read(tmp_path)["loss/train"][-1][0]
    for tag in ("gradient_norms", "norm_histogram"):
        assert [image.step for image in events.Images(tag)] == ([last] if diverges else [80, 160])


DIGITS = ("model=mlp", "data=digits", "data.batch_size=359", "steps=60", "evaluate_every=60", "checkpoint.every=60",
          "log.progress=false", "log.gradient_norms=false")  # fmt: skip


@pytest.mark.parametrize(
    "overrides",
    [
        ("clip=none", "optimizer.lr=20"),
        ("clip=norm", "clip.max=50", "optimizer.lr=10"),
        ("clip=norm", "clip.max=50", "optimizer.lr=500"),
        ("clip=norm", "clip.max=50", "optimizer.lr=5", "optimizer.momentum=0.9"),
        ("clip=value", "clip.max=10", "optimizer.lr=50"),
        ("clip=norm", "clip.max=50", "optimizer=adam", "optimizer.lr=1"),
        ("clip=norm", "clip.max=50", "optimizer=adamw", "optimizer.lr=10"),
        ("clip=norm", "clip.max=50", "optimizer=rmsprop", "optimizer.lr=1"),
    ],
    ids=" ".join,
)
def test_the_first_advice_after_a_divergence_is_a_run_that_learns(overrides: tuple[str, ...], tmp_path: Path) -> None:
    require_options(*DIGITS, *overrides)

    def execute(folder: Path, words: list[str]) -> str:
        config = compose(*words)
        save_config(config, folder)
        (folder / ".hydra").mkdir()
        OmegaConf.save(words, folder / ".hydra" / "overrides.yaml")
        return execute_in_folder(config, folder).state

    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    assert execute(tmp_path / "first", [*DIGITS, *overrides]) == "diverged"
    line = next(line for line in advise(tmp_path / "first").splitlines() if line.startswith("advice: "))
    words = shlex.split(line.removeprefix("advice: "), comments=True)
    assert words[:2] == ["python", "train.py"]
    assert execute(tmp_path / "second", words[2:]) == "finished"
    losses = [value for _, value in metrics.read(tmp_path / "second")["loss/train"]]
    assert losses[-1] < losses[0]


def test_clip_norm_resets_what_overrides_set_and_not_what_an_experiment_sets(tmp_path: Path) -> None:
    """The advice undoes the latter only, which is known from the configuration that its command makes."""
    path = tmp_path / "experiment" / "by_layer.yaml"
    path.parent.mkdir()
    path.write_text("# @package _global_\nclip:\n  scope: layer\n")
    experiment = [f"hydra.searchpath=[{tmp_path}]", "experiment=by_layer"]
    for number, (words, undone) in enumerate(((["clip.scope=layer"], []), (experiment, ["clip.scope=model"]))):
        run = tmp_path / str(number)
        (run / ".hydra").mkdir(parents=True)
        save_config(compose(*words), run)
        OmegaConf.save(words, run / ".hydra" / "overrides.yaml")
        writer = metrics.MetricsWriter(run)
        writer.write(1, {"grad_norm/before": 0.5})
        writer.close()
        write_status(run, initial_status(1))
        line = next(line for line in advise(run, clip_of=clip_of).splitlines() if line.startswith("advice: "))
        command = shlex.split(line.removeprefix("advice: "), comments=True)
        assert command[command.index("clip=norm") :] == ["clip=norm", "clip.max=0.5", *undone]
        assert compose(*command[2:]).clip == compose("clip=norm", "clip.max=0.5").clip
    assert clip_of(["clip=none", "clip.max=1"]) is None


@pytest.mark.parametrize("name", option_names("clip"))
def test_the_advice_says_which_policies_it_does_not_fit(name: str) -> None:
    """For every file in conf/clip: only the threshold of clip=norm, and that of no clipping, is what is advised."""
    config: dict[str, Any] = asdict(compose(f"clip={name}"))
    found = misfit(settings_of(config))
    if name in ("none", "norm"):
        assert found is None
        return
    assert found is not None
    assert found.startswith("the advice is for clip=norm with clip.scope=model and clip.norm_type=2, and does not say")
    assert f"clip={name} needs" in found
    assert "\n" not in found
    adapts = name in ("autoclip", "zclip", "quantile", "ema", "adagc", "agc", "spike")
    assert ("sets its limit by itself" in found) == (adapts or not config["clip"].keys() & {"max", "links"})
    fixed = {"value": "the largest magnitude that an element keeps", "drop": "the largest norm with which a step is",
             "rms": "the largest root mean square", "normalize": "the norm that every block is scaled to"}  # fmt: skip
    assert fixed.get(name, "") in found
