"""The counts of evidence/call_counts.py: calls of the project's functions before the first optimizer step."""

from pathlib import Path

import pytest

from evidence import call_counts
from tests.support import ROOT

TRAIN = """
import hydra
import torch
from omegaconf import DictConfig
from package.cli import start
from package.work import after, before


@hydra.main(version_base="1.3", config_path=None)
def main(config: DictConfig) -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.ones(1)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for _ in range(config.steps):
        before(3)
        optimizer.step()
        after()


if __name__ == "__main__":
    start(main)
"""
CLI = """
def start(main):
    main()
"""
WORK = """
class Unused:
    def method(self):
        pass


def before(times):
    return [inner(number) for number in range(times)]


inner = lambda number: number


def after():
    pass
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "src" / "package").mkdir(parents=True)
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "src" / "package" / "cli.py").write_text(CLI)
    (tmp_path / "src" / "package" / "work.py").write_text(WORK)
    return tmp_path


@pytest.mark.parametrize("steps", [1, 2])
def test_counts_end_at_the_first_step(project: Path, steps: int) -> None:
    counts = call_counts.trace(project, [f"+steps={steps}", "hydra.run.dir=run"])
    assert (counts["functions"], counts["calls"]) == (4, 6)  # start, main, before; inner three times
    assert counts["compositions"] == 2  # Hydra's own main composes twice
    # train.py calls hydra.main, the decorator that it returns, and start; start calls Hydra; Hydra calls train.py.
    assert counts["passes"] == 5


@pytest.mark.parametrize(
    ("override", "words"), [("+steps=0", "ended with 0"), ("steps=1", "Could not override 'steps'")]
)
def test_a_run_without_a_step_is_an_error(project: Path, override: str, words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        call_counts.trace(project, [override, "hydra.run.dir=run"])


def test_this_project(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(call_counts, "checkout", lambda commit, folder: ROOT)
    call_counts.main(["one"])
    header, _, row = capsys.readouterr().out.splitlines()
    assert header == "| until the first step | compositions | functions | calls | passes |"
    _, name, *cells, _ = (cell.strip() for cell in row.split("|"))
    compositions, functions, calls, passes = (int(cell.replace(",", "")) for cell in cells)
    assert name == "one"
    assert compositions >= 1
    assert passes >= 2
    assert calls > functions > 50
