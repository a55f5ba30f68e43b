"""A precision for which this CPU lacks an operation is refused when the run is built."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from runner.errors import UserError
from tests.trainer.support import SMALL, text_file
from trainer.project import compose
from trainer.state import build

ERROR = "could not create a primitive descriptor for the forward propagation primitive"


@pytest.fixture
def missing_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulates a CPU on which torch has no recurrent layer at lower precisions, as many have no LSTM at float16."""
    real = nn.RNN.forward

    def forward(self: nn.RNN, *arguments: Any) -> Any:
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError(f"{ERROR}\nand a second line")
        return real(self, *arguments)

    monkeypatch.setattr(nn.RNN, "forward", forward)


def test_an_operation_missing_at_a_precision_is_a_user_error(tmp_path: Path, missing_operation: None) -> None:
    overrides = (f"data.path={text_file(tmp_path)}", *SMALL)
    with pytest.raises(UserError) as error:
        build(compose(*overrides, "device.precision=bfloat16"))
    assert str(error.value) == (
        f"device.precision=bfloat16: model=rnn needs an operation that torch does not have for it on this CPU ({ERROR})"
    )
    build(compose(*overrides))


def test_the_precision_check_runs_one_micro_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    real = nn.RNN.forward

    def forward(self: nn.RNN, *arguments: Any) -> Any:
        rows.append(len(arguments[0]))
        return real(self, *arguments)

    monkeypatch.setattr(nn.RNN, "forward", forward)
    build(compose(f"data.path={text_file(tmp_path)}", *SMALL, "micro_batches=2", "device.precision=bfloat16"))
    assert rows == [2]


def test_the_precision_check_changes_neither_weights_nor_random_numbers(tmp_path: Path) -> None:
    overrides = (f"data.path={text_file(tmp_path)}", *SMALL, "model.dropout=0.5")
    states, drawn = [], []
    for precision in ("float32", "bfloat16"):
        states.append(build(compose(*overrides, f"device.precision={precision}")))
        drawn.append(torch.rand(3))
    one, other = states
    assert torch.equal(*drawn)
    assert all(p.grad is None for p in other.model.parameters())
    for first, second in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(first, second)
