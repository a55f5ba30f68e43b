"""The JSON schemas accept every file of conf/, and name what is wrong in others."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from omegaconf import OmegaConf

from runner.json_schema import schemas
from scripts import schema as script
from tests.support import ENV
from trainer.project import PROJECT

SCHEMAS = dict(schemas(PROJECT))
FILES = [path.relative_to(PROJECT.conf).as_posix() for path in sorted(PROJECT.conf.rglob("*.yaml"))]
STUDIES = sorted((PROJECT.root / "evidence" / "conf").rglob("*.yaml"))  # none where evidence/ has been deleted
NORM, TRAIN = "clip/norm.yaml", "train.yaml"


def errors(name: str, content: Any) -> list[str]:
    """What the schema of a file says of a content: the path of each wrong key, and the reason."""
    validator = jsonschema.Draft202012Validator(SCHEMAS[name])
    return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(content)]


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_valid(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])
    content = OmegaConf.to_container(OmegaConf.load(PROJECT.conf / name), resolve=False)
    assert errors(name, content) == []


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_experiments_of_evidence_are_valid(path: Path) -> None:
    """Such a file is partial over the whole configuration, which is also what the schema of train.yaml describes."""
    assert errors(TRAIN, OmegaConf.to_container(OmegaConf.load(path), resolve=False)) == []


def test_there_is_a_schema_for_every_file_and_no_other() -> None:
    assert sorted(SCHEMAS) == FILES


@pytest.mark.parametrize(
    ("name", "content", "key"),
    [
        (NORM, {"name": "norm", "maks": 1.0}, "'maks' was unexpected"),
        (NORM, {"name": "norm", "max": 0}, "max: "),
        (NORM, {"name": "norm", "max": "large"}, "max: "),
        (NORM, {"name": "norm", "max": None}, "max: "),
        (NORM, {"name": "norm", "nonfinite": "zro"}, "nonfinite: "),
        (NORM, {"name": "value"}, "name: 'norm' was expected"),
        (NORM, {"name": "norm", "include": "output.*"}, "include: "),
        ("clip/zclip.yaml", {"name": "zclip", "scope": "unit"}, "scope: "),
        ("optimizer/sgd.yaml", {"name": "sgd", "lr": float("inf")}, "lr: "),
        (NORM, {"name": "norm", "max": "abc${steps}"}, "max: "),
        (TRAIN, {"steps": 1.5}, "steps: "),
        (TRAIN, {"log": {"evry": 1}}, "log: "),
        (TRAIN, {"clip": {"maks": 1.0}}, "clip: "),
    ],
)
def test_a_wrong_file_is_named(name: str, content: Any, key: str) -> None:
    (error,) = errors(name, content)
    assert key in error


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (NORM, {"name": "norm", "max": float("inf")}),
        (NORM, {"name": "norm", "max": "${optimizer.lr}"}),
        (NORM, {"name": "norm"}),
        (TRAIN, {"divergence": {"factor": None}}),
        (TRAIN, {"clip": {"max": 0.5, "nonfinite": "drop"}, "steps": 10}),
        ("clip/chain.yaml", {"name": "chain", "links": {"whole": {"name": "norm", "max": 1.0}}}),
    ],
)
def test_a_right_file_is_accepted(name: str, content: Any) -> None:
    assert errors(name, content) == []


def test_every_key_has_its_help_as_description() -> None:
    for group, base in PROJECT.groups.items():
        for name, option in base.options.items():
            properties = SCHEMAS[f"{group}/{name}.yaml"]["properties"]
            for field in dataclasses.fields(option):
                if field.name != "name":
                    assert properties[field.name]["description"] == field.metadata["help"]


def test_the_script_writes_them_and_the_settings_of_vs_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script.main(["--folder", str(tmp_path / "schemas")])
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'schemas'}: {len(FILES)} schemas")
    settings = json.loads((tmp_path / "schemas" / "vscode.json").read_text())["yaml.schemas"]
    assert settings["schemas/clip/norm.json"] == "conf/clip/norm.yaml"
    for path, file in settings.items():
        assert json.loads((tmp_path / path).read_text()) == SCHEMAS[file.removeprefix("conf/")]


def test_the_schemas_are_made_without_torch() -> None:
    code = "import sys, runner.json_schema\n"
    code += "from trainer.project import PROJECT\n"
    code += "dict(runner.json_schema.schemas(PROJECT))\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=ENV, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
