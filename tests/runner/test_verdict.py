"""What clipping did in a run, and the spike score, against plain arithmetic."""

import math
import random
import statistics

import pytest

from runner.report.verdict import spike_score, verdict


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
        ([1], "step limiter, 100 % of the last fifth"),
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
