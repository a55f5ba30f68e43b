"""Options are found by importing the modules of a folder, and the schemas do not import torch."""

import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from textwrap import dedent

import pytest
import torch

import trainer.policies
from gradclip import Clipper
from gradclip.policies import Policy
from runner.errors import UserError
from tests.trainer.options import option, option_names
from tests.trainer.support import preflight_error
from trainer.config.options import builder, import_all
from trainer.project import PROJECT

PACKAGES = {"model": "models", "data": "data", "optimizer": "optimizers", "schedule": "schedules"}


@pytest.mark.parametrize("group", PACKAGES)
def test_each_option_has_a_schema_a_value_file_and_a_builder_of_its_name(group: str) -> None:
    assert option_names(group)
    for name in option_names(group):
        assert option(group, name).name == name
        assert PROJECT.groups[group].options[name].__module__ == f"trainer.config.{group}.{name}"
        assert callable(import_module(f"trainer.{PACKAGES[group]}.{name}").build)


def test_the_schemas_and_policies_import_no_torch() -> None:
    code = "import sys, trainer.config, trainer.policies; print('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(PROJECT.root / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_import_all_imports_every_module_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "package").mkdir()
    for name in ("__init__", "first", "second"):
        (tmp_path / "package" / f"{name}.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    import_all("package", [str(tmp_path / "package")])
    assert {"package.first", "package.second"} <= sys.modules.keys()


def test_the_example_policy_in_the_docstring_of_its_package_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docstring = str(trainer.policies.__doc__)
    code = dedent(docstring[docstring.index("    from __future__") : docstring.index("And one in conf/clip/")])
    package = tmp_path / "copy_of_policies"
    package.mkdir()
    shutil.copy(str(trainer.policies.__file__), package)
    (package / "double.py").write_text(code, encoding="utf-8")
    monkeypatch.setattr(Policy, "options", dict(Policy.options))
    monkeypatch.syspath_prepend(str(tmp_path))
    import_module("copy_of_policies")
    policy = Policy.options["double"](rise=2.0)
    weight = torch.nn.Parameter(torch.zeros(1))
    clipper = Clipper([("weight", weight)], policy)
    norms = []
    for gradient in (3.0, 30.0, 5.0):
        weight.grad = torch.tensor([gradient])
        norms.append(clipper.clip().after.item())
    assert norms == pytest.approx([3.0, 6.0, 5.0])


def test_an_option_without_a_module_that_builds_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError) as error:
        builder("trainer.models", "model", "mine")
    assert str(error.value) == "model=mine: there is no src/trainer/models/mine.py with a function build"
    with pytest.raises(ModuleNotFoundError):  # a module that imports a missing package is a bug
        builder("trainer.mine", "model", "rnn")


def test_an_option_without_a_schema_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").mkdir()
    content = "defaults: [/schema/model/mine@_here_, _self_]\n\nname: mine\n"
    (tmp_path / "model" / "mine.yaml").write_text(content, encoding="utf-8")
    line = preflight_error(["model=mine", f"hydra.searchpath=[file://{tmp_path}]"], capsys)
    assert line == "model=mine: no class has the name mine, which conf/model/mine.yaml refers to"
