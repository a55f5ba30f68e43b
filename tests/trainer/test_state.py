"""The state of a run: built once, also from models of a fork."""

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.support import small_config
from trainer import data
from trainer.config.model import Model
from trainer.run import execute_in_folder


class ReadsItsTensors(nn.Module):
    """A model whose constructor reads numbers out of tensors, as timm's models with stochastic depth do."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.rates = [rate.item() for rate in torch.linspace(0, 0.5, 3)]
        self.rates += torch.linspace(0, 0.5, 3).tolist() + list(torch.linspace(0, 0.5, 3).numpy())
        self.embedding = nn.Embedding(inputs, 4)
        self.output = nn.Linear(4, outputs)
        with torch.no_grad():
            self.scale = self.output.weight.norm().item()

    def forward(self, inputs: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        return self.output(self.embedding(inputs)) / self.scale, None


@pytest.fixture
def fork_model(monkeypatch: pytest.MonkeyPatch) -> Model:
    """A model option that a fork has added."""
    monkeypatch.setattr(Model, "options", dict(Model.options))

    @dataclass(kw_only=True)
    class ForkModel(Model):
        name: str = "fork_model"
        takes: ClassVar[tuple[str, ...]] = ("characters",)

    module = ModuleType("trainer.models.fork_model")
    module.build = lambda config, inputs, outputs, kind: ReadsItsTensors(inputs, outputs)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return ForkModel()


def test_a_model_whose_constructor_reads_tensors_trains(tmp_path: Path, fork_model: Model) -> None:
    config = small_config(tmp_path)
    config.model = fork_model
    assert execute_in_folder(config, tmp_path / "run").state == "finished"


def test_the_data_set_and_the_model_are_built_once_per_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fork_model: Model
) -> None:
    built: list[str] = []
    read, create = data.build, ReadsItsTensors.__init__
    monkeypatch.setattr(data, "build", lambda *arguments: (built.append("data"), read(*arguments))[1])
    monkeypatch.setattr(ReadsItsTensors, "__init__", lambda *arguments: (built.append("model"), create(*arguments))[1])
    config = small_config(tmp_path)
    config.model = fork_model
    execute_in_folder(config, tmp_path / "run")
    assert built == ["data", "model"]
