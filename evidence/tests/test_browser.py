"""TensorBoard in a real browser: the lines, axes and keys of a small sweep, and the pictures of a run."""

from pathlib import Path
from typing import Any

import pytest

from evidence.screenshots import ABSENT, new_page, serve, show_hparams, show_norms, show_pictures, visit
from tests.support import program
from tests.trainer.support import text_file

SMALL = ("steps=60", "data.batch_size=4", "data.window=32", "data.sample=0", "model.hidden=16", "model.embedding=8",
         "optimizer.lr=4", "evaluate_every=20")  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(bool(ABSENT), reason=ABSENT)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_sweep_in_a_browser(tmp_path: Path) -> None:
    done = program(
        "-m", "clip=norm,value", "clip.max=0.05,0.5", "seed=1,2", f"data.path={text_file(tmp_path)}", *SMALL,
        "log.parameters_every=60", "hydra.sweep.dir=swept", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    server = serve(str(tmp_path / "swept"))
    with new_page() as page:
        check_overlay(page, server)
        check_hparams(page, server)
        check_time_series(page, server)


@pytest.mark.slow
@pytest.mark.skipif(bool(ABSENT), reason=ABSENT)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_in_a_browser(tmp_path: Path) -> None:
    """Norms, limit and share stand on one page, and the two pictures are loaded at their size."""
    done = program(f"data.path={text_file(tmp_path)}", *SMALL, "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    server = serve(str(tmp_path / "run"))
    with new_page() as page:
        show_norms(page, server, lines=4)
        titles = page.locator("tf-card-heading").evaluate_all("all => all.map(heading => heading.displayName)")
        assert titles[:3] == ["norm before and after", "limit", "share of blocks limited"]
        pictures = show_pictures(page, server)
        assert pictures.evaluate_all("all => all.map(image => image.naturalWidth)") == [900, 900]
        assert page.get_by_text("gradient_norms").count() > 0
        assert page.get_by_text("norm_histogram").count() > 0


def check_overlay(page: Any, server: str) -> None:
    """Checks the norms before and after clipping of all eight runs on one chart, over the steps."""
    card = show_norms(page, server, lines=32)  # smoothed and not, before and after, of 8 runs
    lines = card.locator("path.line").evaluate_all("all => all.map(line => line.getAttribute('d').length)")
    assert len(lines) == 32
    assert min(lines) > 60, "a line of many points each"
    axis = [float(text) for text in card.locator("text").all_text_contents()]
    assert {0.0, 60.0} <= set(axis), "the steps"
    for tag in ("grad_norm/before", "grad_norm/after"):
        assert card.get_by_text(tag).count() == 8, "a line of the legend for each run"


def check_hparams(page: Any, server: str) -> None:
    """Checks that every swept key and the objective are columns of a table, and axes with a line per run."""
    table = show_hparams(page, server)
    head = table.locator("vaadin-grid-cell-content").all_inner_texts()
    names = [" ".join(text.split()) for text in head if text.strip()]
    for key in ("clip", "clip.max", "seed", "best/objective"):
        assert key in names
    assert {"norm", "value"} <= set(names)
    page.get_by_text("PARALLEL COORDINATES VIEW").click()
    axes = page.locator("tf-hparams-parallel-coords-view")
    axes.locator("text.axis-title").nth(3).wait_for(state="attached")
    page.wait_for_timeout(500)
    titles = axes.locator("text.axis-title").all_text_contents()
    assert titles[:4] == ["clip", "clip.max", "seed", "best/objective"]
    assert axes.locator(".foreground path").count() == 8


def check_time_series(page: Any, server: str) -> None:
    """Checks that each norm has a card, with a line for each run."""
    visit(page, server, "&tagFilter=grad_norm%2F&smoothing=0#timeseries")
    cards = page.locator("scalar-card")
    cards.nth(1).locator("svg path[style*=stroke]").nth(7).wait_for(state="attached")
    assert ["".join(text.split()) for text in cards.locator(".tag").all_inner_texts()] == [
        "grad_norm/after", "grad_norm/before"]  # fmt: skip
    for number in range(2):
        lines = cards.nth(number).locator("svg path[style*=stroke]")
        colours = lines.evaluate_all("all => all.map(line => line.style.stroke)")
        assert len(colours) >= 8
        assert "60" in [text.strip() for text in cards.nth(number).locator("text").all_text_contents()]
