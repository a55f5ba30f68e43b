"""The memory of a run compared with a hand-written loop, for a small model."""

import pytest

from evidence import memory, processes


@pytest.mark.skipif(processes.memory("VmHWM") is None, reason="needs /proc")
def test_the_weights_are_copied_only_at_a_logged_step() -> None:
    found = memory.compare(width=2000)
    hand, project = found["by hand"], found["ours"]
    assert project.weights == hand.weights > 30
    assert project.live / hand.live < 1.05
    # The memory of such a small process varies by a few MB; another copy of the weights would be more.
    assert project.resident - hand.resident < 0.9 * hand.weights
    assert project.peak - hand.peak < 0.9 * hand.weights
    first, *others = ((project.forward[step] - hand.forward[step]) / hand.weights for step in range(memory.STEADY))
    assert first == pytest.approx(1.0, abs=0.05)  # the copy for the norm of the first update
    assert others == pytest.approx([0.0, 0.0], abs=0.05)
    assert "| 1 | 1.00 | 2.0" in memory.section(found)


def test_the_page_is_within_its_limit() -> None:
    section = memory.pages.content(memory.PAGE.read_text(encoding="utf-8"), "memory")
    ratios = [float(row[-1]) for row in memory.pages.cells(section) if len(row) == 4]
    assert len(ratios) == 3
    assert max(ratios) < 1.05
