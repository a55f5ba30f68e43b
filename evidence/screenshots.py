"""Takes the screenshots of TensorBoard in docs/: `python evidence/screenshots.py` trains a run and a sweep for them.

Needs the extra `browser` and Chromium. Two minutes.
"""

import argparse
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tensorboard import program as tensorboard

ROOT = Path(__file__).parents[1]
BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
ABSENT = ('playwright is not installed: pip install -c constraints.txt -e ".[browser]"'
          if importlib.util.find_spec("playwright") is None
          else "no chromium on this machine: apt-get install chromium" if BROWSER is None else "")  # fmt: skip
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run"]  # fmt: skip
RUN = ("clip=norm", "clip.max=0.5", "steps=300", "evaluate_every=300", "hydra.run.dir=outputs/runs/clip_norm")
SWEEP = ("-m", "clip=norm,value", "clip.max=0.005,0.05", "seed=1,2", "steps=60", "evaluate_every=60",
         "hydra.sweep.dir=outputs/sweeps/clip")  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "docs", help="the folder of the images")
    args = parser.parse_args(arguments)
    if ABSENT:
        sys.exit(f"error: {ABSENT}")
    images = args.folder.absolute()
    # The pages show the folder that TensorBoard was given: a relative one.
    with TemporaryDirectory() as folder, chdir(folder), new_page() as page:
        train(RUN)
        train(SWEEP)
        run, sweep = serve("outputs/runs"), serve("outputs/sweeps")
        chart = show_norms(page, run, lines=4)
        page.get_by_text("Ignore outliers in chart scaling").click()
        page.locator("tf-smoothing-input input").first.fill("0")
        for number in (1, 2):  # a logarithmic axis, and the axes fitted to the data
            chart.locator("paper-icon-button").nth(number).click()
        page.wait_for_timeout(1000)
        page.screenshot(path=images / "norms.png")
        page.set_viewport_size({"width": 1280, "height": 960})
        show_pictures(page, run)
        page.screenshot(path=images / "gradient_norms.png")
        show_hparams(page, sweep)
        page.screenshot(path=images / "hparams.png", clip={"x": 0, "y": 0, "width": 1280, "height": 480})


def train(overrides: Sequence[str]) -> None:
    """Runs train.py in the working directory."""
    quiet = ("log.progress=false", "device.threads=1")
    subprocess.run([sys.executable, str(ROOT / "train.py"), *overrides, *quiet], check=True)


def serve(folder: str) -> str:
    """The address of a TensorBoard that shows a folder, until this process ends."""
    board = tensorboard.TensorBoard()
    board.configure(argv=["tensorboard", "--logdir", folder, "--port", "0", "--load_fast=false"])
    address: str = board.launch()
    return address


@contextmanager
def new_page() -> Iterator[Any]:
    """A page of a headless browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=BROWSER, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 760})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def visit(page: Any, server: str, location: str) -> None:
    """Opens a page of TensorBoard with lines drawn as SVG, whose elements can be read."""
    page.goto("about:blank")
    page.goto(f"{server}?forceSVG=true&darkMode=false{location}")


def show_norms(page: Any, server: str, lines: int) -> Any:
    """Opens Custom Scalars, and waits until its first chart has lines. Returns the chart."""
    visit(page, server, "#custom_scalars")
    card = page.locator("tf-custom-scalar-multi-line-chart-card").first
    card.locator("path.line").nth(lines - 1).wait_for(state="attached")
    page.get_by_text("norm before and after").wait_for()
    page.wait_for_timeout(500)
    return card


def show_pictures(page: Any, server: str) -> Any:
    """Opens the images of a run at their actual size, and waits until two are loaded. Returns them."""
    visit(page, server, "#images")
    page.get_by_text("Show actual image size").click()
    images = page.locator("tf-image-loader img")
    images.nth(1).wait_for(state="visible")
    page.wait_for_timeout(1000)
    return images


def show_hparams(page: Any, server: str) -> Any:
    """Opens HParams, and waits until the table has the objective. Returns the table."""
    visit(page, server, "#hparams")
    table = page.locator("tf-hparams-table-view")
    table.get_by_text("best/objective").first.wait_for()
    page.wait_for_timeout(500)
    return table


if __name__ == "__main__":
    main()
