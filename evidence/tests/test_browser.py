"""TensorBoard in a real browser: a small sweep, with its lines, axes and keys.

Screenshots are written to the folder in the environment variable SCREENSHOTS; docs/ has some of them.
"""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard import program as tensorboard

from tests.support import program
from tests.trainer.support import text_file

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
ABSENT = ('playwright is not installed: pip install -c constraints.txt -e ".[browser]"'
          if importlib.util.find_spec("playwright") is None
          else "no chromium on this machine: apt-get install chromium" if BROWSER is None else "")  # fmt: skip
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run"]  # fmt: skip


@pytest.fixture
def page() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=BROWSER, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 760})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


@pytest.mark.slow
@pytest.mark.skipif(bool(ABSENT), reason=ABSENT)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_sweep_in_a_browser(page: Any, tmp_path: Path) -> None:
    shots = Path(os.environ.get("SCREENSHOTS", tmp_path))
    done = program(
        "-m", "clip=norm,value", "clip.max=0.05,0.5", "seed=1,2", f"data.path={text_file(tmp_path)}", "steps=60",
        "data.batch_size=4", "data.window=32", "data.sample=0", "model.hidden=16", "model.embedding=8",
        "optimizer.lr=4", "evaluate_every=20", "log.parameters_every=60", "hydra.sweep.dir=swept", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    board = tensorboard.TensorBoard()
    board.configure(argv=["tensorboard", "--logdir", str(tmp_path / "swept"), "--port", "0", "--load_fast=false"])
    server = board.launch()
    check_overlay(page, server, shots)
    check_hparams(page, server, shots)
    check_time_series(page, server, shots)


def visit(page: Any, server: str, location: str) -> None:
    """Opens a page of TensorBoard with lines drawn as SVG, whose elements can be read."""
    page.goto("about:blank")
    page.goto(f"{server}?forceSVG=true&darkMode=false{location}")


def check_overlay(page: Any, server: str, shots: Path) -> None:
    """Checks the norms before and after clipping of all eight runs on one chart, over the steps."""
    visit(page, server, "#custom_scalars")
    card = page.locator("tf-custom-scalar-multi-line-chart-card").first
    card.locator("path.line").nth(31).wait_for(state="attached")  # smoothed and not, before and after, of 8 runs
    page.get_by_text("norm before and after").wait_for()
    page.wait_for_timeout(500)
    lines = card.locator("path.line").evaluate_all("all => all.map(line => line.getAttribute('d').length)")
    assert len(lines) == 32
    assert min(lines) > 60, "a line of many points each"
    axis = [float(text) for text in card.locator("text").all_text_contents()]
    assert {0.0, 60.0} <= set(axis), "the steps"
    for tag in ("grad_norm/before", "grad_norm/after"):
        assert card.get_by_text(tag).count() == 8, "a line of the legend for each run"
    page.screenshot(path=shots / "browser_overlay.png")


def check_hparams(page: Any, server: str, shots: Path) -> None:
    """Checks that every swept key and the objective are columns of a table, and axes with a line per run."""
    visit(page, server, "#hparams")
    table = page.locator("tf-hparams-table-view")
    table.get_by_text("best/objective").first.wait_for()
    page.wait_for_timeout(500)
    head = table.locator("vaadin-grid-cell-content").all_inner_texts()
    names = [" ".join(text.split()) for text in head if text.strip()]
    for key in ("clip", "clip.max", "seed", "best/objective"):
        assert key in names
    assert {"norm", "value"} <= set(names)
    page.screenshot(path=shots / "browser_hparams.png", clip={"x": 0, "y": 0, "width": 1280, "height": 480})
    page.get_by_text("PARALLEL COORDINATES VIEW").click()
    axes = page.locator("tf-hparams-parallel-coords-view")
    axes.locator("text.axis-title").nth(3).wait_for(state="attached")
    page.wait_for_timeout(500)
    titles = axes.locator("text.axis-title").all_text_contents()
    assert titles[:4] == ["clip", "clip.max", "seed", "best/objective"]
    assert axes.locator(".foreground path").count() == 8
    page.screenshot(path=shots / "browser_coordinates.png")


def check_time_series(page: Any, server: str, shots: Path) -> None:
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
    page.screenshot(path=shots / "browser_time_series.png")
