"""What clipping did in a run, how far an adaptive limit moved, and the spike score, against plain arithmetic."""

import math
import random
import statistics
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from gradclip.policies import Policy
from runner.report.limit import describe_limit, still_changing
from runner.report.settings import Settings, read_settings
from runner.report.verdict import Findings, find, of_run, spike_score, verdict
from runner.tracking.metrics import MetricsWriter

SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}
ADAM = {"name": "adam", "lr": 0.1, "beta1": 0.9, "beta2": 0.999}
RMSPROP = {"name": "rmsprop", "lr": 0.1, "alpha": 0.99, "momentum": 0.0}
NORM = {"name": "norm", "max": 1.0, "scope": "model"}
AUTOCLIP = {"name": "autoclip", "max": None, "scope": "model"}
ZCLIP = {"name": "zclip", "max": 1.0, "scope": "model", "warmup": 25}


@pytest.mark.parametrize(
    ("limited", "words"),
    [
        ([0] * 100, "inactive: "),
        ([0] * 60 + [1] + [0] * 39, "safety net: at step 61"),
        ([1] * 5 + [0] * 95, "safety net: at step 1, 2, 3, 4, 5"),
        ([1] * 6 + [0] * 94, "partly, 0 % of the last fifth"),
        ([0] * 80 + [1] * 20, "partly, 100 % of the last fifth"),
        ([1] * 80 + [0] * 20, "partly, 0 % of the last fifth"),
        ([1] * 100, "step limiter, 100 % of the last fifth"),
        ([0, 1] * 50, "step limiter, 50 % of the last fifth"),
        ([1] * 20, "step limiter, 100 % of the last fifth"),
        ([1] * 19, "too few for a verdict: 19 logged steps"),
        ([1], "too few for a verdict: 1 logged step"),
        ([0] * 4, "too few for a verdict: 4 logged steps"),
    ],
)
def test_the_verdict_follows_the_shares(limited: list[int], words: str) -> None:
    found = verdict(range(1, len(limited) + 1), [0.25 * each for each in limited])
    assert found.startswith(words)
    assert found == words or found[len(words)] in ":; " or words.endswith(" ")


def test_a_safety_net_names_at_most_eight_steps() -> None:
    found = verdict(range(1000), [float(step % 50 == 0) for step in range(1000)])
    assert found == "safety net: at step 0, 50, 100, 150, 200, 250, 300, 350 and 12 more"


def test_the_spike_score_is_that_of_plain_arithmetic() -> None:
    generator = random.Random(3)
    values = [generator.gauss(2.0, 0.1) for _ in range(400)]
    for index, height in ((50, 9.0), (200, 2.9), (201, 9.0), (300, 2.3), (350, math.inf), (399, math.nan)):
        values[index] = height
    spikes = 0
    for index in range(128, 400):
        window = [value for value in values[index - 128 : index] if math.isfinite(value)]
        bound = statistics.fmean(window) + 6 * statistics.pstdev(window)
        spikes += not math.isfinite(values[index]) or values[index] > bound
    assert spikes >= 4
    assert spike_score(values) == spikes / (400 - 128)
    assert spike_score(values[:128]) == 0.0
    assert spike_score([]) == 0.0


# -- what a step limiter means for the optimizer


@pytest.mark.parametrize(
    ("clip", "optimizer", "words"),
    [
        (NORM, SGD, "the length of a step of sgd is learning rate x clip.max, so that changing one changes the other"),
        (NORM, SGD | {"momentum": 0.9}, "learning rate x clip.max (with momentum up to 10 times that), so that"),
        (NORM, SGD | {"weight_decay": 0.1}, "learning rate x clip.max, apart from weight decay, so that"),
        (NORM | {"scope": "layer"}, SGD, "the length of a step of sgd in each limited layer is learning rate x"),
        (AUTOCLIP, SGD, "the length of a step of sgd is learning rate x limit"),
        (NORM, ADAM, "adam divides the gradient by its own size, so that another clip.max hardly changes the length"),
        (NORM, RMSPROP, "rmsprop divides the gradient by its own size, so that another clip.max hardly"),
        (AUTOCLIP, ADAM, "so that another limit hardly changes the length of a step; optimizer.lr does"),
    ],
)  # fmt: skip
def test_a_step_limiter_is_explained_for_the_run_s_optimizer(
    clip: dict[str, Any], optimizer: dict[str, Any], words: str
) -> None:
    found = verdict(range(20), [1.0] * 20, Settings(clip, optimizer))
    assert found.startswith("step limiter, 100 % of the last fifth: ")
    assert words in found
    assert ("learning rate x" in found) == (optimizer["name"] == "sgd"), "one sentence, that for the optimizer"


def test_policies_that_do_not_limit_have_words_of_their_own() -> None:
    """normalize enlarges gradients too, so that it changes every step; drop leaves a step out."""
    for fractions in ([0.0] * 20, [1.0] * 20):
        found = verdict(range(20), fractions, Settings({"name": "normalize", "max": 1.0}, SGD))
        assert found.startswith("step limiter: clip=normalize scales every gradient, whatever its norm: the length of")
    drop = Settings({"name": "drop", "max": 1.0}, SGD)
    assert verdict(range(20), [0.0] * 20, drop).startswith("inactive: no logged step was dropped")
    assert verdict(range(20), [1.0] * 20, drop).startswith("most steps are dropped, 100 % of the last fifth: ")
    assert verdict(range(20), [1.0] * 20, Settings({"name": "chain"}, SGD)).endswith("100 % of the last fifth")


# -- adaptive limits

GENERATOR = random.Random(5)
NOISE = [math.exp(GENERATOR.gauss(0, 0.5)) for _ in range(1000)]


@pytest.mark.parametrize(
    ("limits", "changing"),
    [
        ([2.0] * 1000, False),
        ([2.0 + step * 1e-5 for step in range(1000)], False),
        (NOISE, False),
        (NOISE[:60], False),
        ([10 ** (-step / 1000) for step in range(1000)], True),
        ([10 ** (step / 1000) for step in range(1000)], True),
        ([noise * 1000 ** (-step / 1000) for step, noise in enumerate(NOISE)], True),
        ([5.0] * 790 + [1.0] * 210, True),
        ([5.0] * 500 + [1.0] * 500, False),
        ([1.0 + 0.05 * (step >= 800) for step in range(1000)], False),
    ],
    ids=["constant", "a change without effect", "noise", "short noise", "falling", "rising", "falling with noise",
         "a late jump", "an early jump", "a jump by 5 %"],
)  # fmt: skip
def test_a_limit_is_still_changing_if_the_last_fifth_differs(limits: list[float], changing: bool) -> None:
    """The rule again in plain arithmetic: outside the middle 80 % of the fifth before it, and by more than 10 %."""
    assert still_changing(limits) is changing
    fifth = len(limits) // 5
    before, last = sorted(limits[-2 * fifth : -fifth]), statistics.median(limits[-fifth:])
    outside = sum(value < last for value in before) / fifth > 0.9 or sum(value > last for value in before) / fifth > 0.9
    middle = statistics.median(before)
    assert changing == (outside and abs(last - middle) > 0.1 * middle)


def test_the_movement_of_a_limit_is_that_of_its_logged_values() -> None:
    points = [(step, 10 ** (-step / 100)) for step in range(1, 101)]
    found = describe_limit(points, Settings(AUTOCLIP, SGD))
    assert found == "it moved from 0.977 to 0.1, between 0.1 and 0.977; still changing at the end"
    found = describe_limit([(step, 2.0) for step in range(1, 101)], Settings(AUTOCLIP, SGD))
    assert found == "it moved from 2 to 2, between 2 and 2; steady at the end"


def test_the_warm_up_and_the_cap_are_no_movement_of_a_limit() -> None:
    """For 25 steps zclip sets no limit; then one in four of its limits is below its cap, which the logs show as 1."""
    points = [(step, 0.5 if step % 4 == 0 else 1.0) for step in range(1, 426)]
    found = describe_limit(points, Settings(ZCLIP, SGD))
    assert found == (
        "after a warm-up of 25 steps, it moved from 0.5 to 0.5, between 0.5 and 0.5; "
        "at 75 % of the steps the policy set no limit below its cap clip.max; steady at the end"
    )
    uncapped = Settings(ZCLIP | {"max": None}, SGD)
    found = describe_limit([(step, math.inf) for step in range(1, 51)], uncapped)
    assert found == "after a warm-up of 25 steps, the policy set no limit at any logged step"
    found = describe_limit(points[:20], Settings(ZCLIP, SGD))
    assert found == "not adapted yet: the warm-up of 25 steps was not over at step 20"
    found = describe_limit([(30, 0.5), (31, 0.25)], Settings(ZCLIP, SGD))
    assert found is not None
    assert found.endswith("it moved from 0.5 to 0.25, between 0.25 and 0.5; 2 limits are too few to say whether it "
                          "still changed at the end")  # fmt: skip


def test_a_policy_without_a_warmup_key_has_the_steps_before_its_first_limit() -> None:
    points = [(1, math.inf), (2, math.inf), (3, 0.5), (4, 0.25)]
    found = describe_limit(points, Settings({"name": "not_imported", "max": None}, SGD))
    assert found is not None
    assert found.startswith("after a warm-up of 2 steps, it moved from 0.5 to 0.25")


def test_only_policies_that_set_their_own_limit_have_a_movement() -> None:
    """By the schema: those whose `max` is a cap. The others have a fixed threshold, or none."""
    points = [(step, 1.0) for step in range(1, 101)]
    moving = {
        name
        for name, schema in Policy.options.items()
        if describe_limit(points, Settings(dict.fromkeys(each.name for each in fields(schema)) | {"name": name}))
    }
    assert moving >= {"autoclip", "zclip", "quantile", "ema", "adagc", "agc", "spike"}
    assert not moving & {"none", "norm", "value", "rms", "normalize", "soft", "drop", "chain"}


# -- of a run's folder


def test_the_findings_of_a_folder(tmp_path: Path) -> None:
    """Spike scores only if a step is judged; the configuration from config.yaml."""
    writer = MetricsWriter(tmp_path)
    for step in range(1, 130):
        spike = 100.0 if step == 129 else 1.0 + step % 2
        writer.write(step, {"loss/train": spike, "grad_norm/before": 1.0, "clip/fraction": 1.0, "clip/limit": 0.5})
        if step == 128:
            assert find(tmp_path).scores == {}
    writer.close()
    assert find(tmp_path).scores == {"spike_score/loss": 1.0, "spike_score/grad_norm": 0.0}
    OmegaConf.save({"clip": NORM, "optimizer": ADAM}, tmp_path / "config.yaml")
    assert read_settings(tmp_path) == Settings(NORM, ADAM)
    text = of_run(tmp_path)
    assert text is not None
    assert text.startswith("100.0 % of the logged steps; step limiter, 100 % of the last fifth: adam divides")
    OmegaConf.save({"clip": AUTOCLIP, "optimizer": SGD}, tmp_path / "config.yaml")
    text = of_run(tmp_path)
    assert text is not None
    assert text.endswith("; limit: it moved from 0.5 to 0.5, between 0.5 and 0.5; steady at the end")
    OmegaConf.save({"clip": {"name": "none"}}, tmp_path / "config.yaml")
    assert of_run(tmp_path) is None
    assert of_run(tmp_path / "missing") is None
    assert Findings().text is None


def test_the_cost_is_logged_and_read_again(tmp_path: Path) -> None:
    """The seconds of clipping times the steps per second."""
    writer = MetricsWriter(tmp_path)
    for step in range(1, 21):
        writer.write(step, {"clip/fraction": 0.0, "steps_per_second": 5.0 * step})
    assert find(tmp_path, clip_seconds=2e-4).scalars == {"clip/cost": pytest.approx(0.02)}
    writer.write(20, {"clip/cost": 0.02})
    writer.close()
    assert (of_run(tmp_path) or "").endswith("clipping changed nothing; clipping took 2 % of a step's time")
    findings = find(tmp_path)
    inactive = "0.0 % of the logged steps; inactive: no logged step was limited, and clipping changed nothing"
    assert findings.clipped == inactive
    assert findings.text == f"{inactive}; clipping took 2 % of a step's time"


@pytest.mark.parametrize("clip", [NORM, AUTOCLIP, {"name": "normalize", "max": 1.0}, {"name": "drop", "max": 1.0}])
def test_a_run_whose_every_step_was_dropped_has_no_verdict(clip: dict[str, Any], tmp_path: Path) -> None:
    """`dropped` counts all steps so far. If only some were dropped, clipping did not change nothing."""
    writer = MetricsWriter(tmp_path)
    for step in range(2, 61, 2):
        writer.write(step, {"clip/fraction": 0.0, "clip/limit": math.nan, "dropped": float(step)})
    writer.close()
    OmegaConf.save({"clip": clip, "optimizer": SGD}, tmp_path / "config.yaml")
    assert find(tmp_path).text == "no verdict: every step was dropped"
    writer = MetricsWriter(tmp_path)
    writer.write(61, {"clip/fraction": 0.0, "clip/limit": 1.0, "dropped": 60.0})
    writer.close()
    OmegaConf.save({"clip": NORM, "optimizer": SGD}, tmp_path / "config.yaml")
    assert find(tmp_path).text == "0.0 % of the logged steps; inactive: no logged step was limited; 60 were dropped"
