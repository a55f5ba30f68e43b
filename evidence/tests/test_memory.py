"""What a run needs in memory beside a loop by hand, at a small size."""

import pytest

from evidence import memory, processes


@pytest.mark.skipif(processes.memory("VmHWM") is None, reason="needs /proc")
def test_a_copy_is_made_where_it_is_logged_and_nowhere_else() -> None:
    found = memory.compare(width=2000)
    hand, own = found["by hand"], found["ours"]
    assert own.weights == hand.weights > 30
    assert own.live / hand.live < 1.05
    # So small a process varies by some MB from start to start; one more copy of the weights would be more than that.
    assert own.resident - hand.resident < 0.9 * hand.weights
    assert own.peak - hand.peak < 0.9 * hand.weights
    first, *others = ((own.forward[step] - hand.forward[step]) / hand.weights for step in range(memory.QUIET))
    assert first == pytest.approx(1.0, abs=0.05)  # the copy for the size of the first update
    assert others == pytest.approx([0.0, 0.0], abs=0.05)
    assert "| 1 | 1.00 | 2.0" in memory.section(found)


def test_the_page_keeps_to_its_limit() -> None:
    section = memory.pages.content(memory.PAGE.read_text(encoding="utf-8"), "memory")
    ratios = [float(row[-1]) for row in memory.pages.cells(section) if len(row) == 4]
    assert len(ratios) == 3
    assert max(ratios) < 1.05
