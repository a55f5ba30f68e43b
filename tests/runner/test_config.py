"""conf/ and the schemas: every option complete, commented, typed, and the same in YAML and in Python."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from gradclip import Policy
from gradclip.fields import Checked
from runner.cli.preflight import CONF
from runner.compose import checked, load
from runner.errors import all_keys
from runner.runs.run import save
from tests.support import ROOT, program
from trainer.config import GROUPS, Train, flat
from trainer.project import compose, composer

OPTIONS = [(group, option) for group in GROUPS for option in composer().options(group)]
FILES = sorted(CONF.rglob("*.yaml"))
PAIRS = {"linear_net": "data=line", "mlp": "data=digits", "deep_linear": "data=direction", "line": "model=linear_net",
         "digits": "model=mlp", "direction": "model=deep_linear"}  # fmt: skip


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_into_its_own_class(group: str, option: str) -> None:
    config = compose(f"{group}={option}", *([PAIRS[option]] if option in PAIRS else []))
    part = getattr(config, group)
    assert type(part) is GROUPS[group].options[option]
    assert part.name == option


@pytest.mark.parametrize("group", GROUPS)
def test_every_class_has_its_file(group: str) -> None:
    assert sorted(GROUPS[group].options) == sorted(composer().options(group))


@pytest.mark.parametrize("option", Policy.options)
def test_a_policy_has_the_same_values_in_yaml_and_in_python(option: str) -> None:
    part = compose(f"clip={option}").clip
    for field in dataclasses.fields(part):
        if field.default is not dataclasses.MISSING:
            assert getattr(part, field.name) == field.default, field.name
        elif field.default_factory is not dataclasses.MISSING:
            assert getattr(part, field.name) == field.default_factory(), field.name


@pytest.mark.parametrize("group", [g for g in GROUPS if g != "clip"])
def test_no_default_stands_twice(group: str) -> None:
    for schema in GROUPS[group].options.values():
        for field in dataclasses.fields(schema):
            assert field.name == "name" or field.default is dataclasses.MISSING, f"{schema.__name__}.{field.name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_every_file_sets_every_key_of_its_schema_once_and_names_no_code(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "_target_" not in text
    assert not re.search(r"\b(trainer|gradclip|torch)\.\w", text), "a Python path breaks when a class is renamed"
    if path.parent.name in GROUPS:
        keys = {field.name for field in dataclasses.fields(GROUPS[path.parent.name].options[path.stem])}
        filled = {"links"} if "@links." in text else set()  # by the defaults list
        assert (set(yaml.safe_load(text)) - {"defaults"}) | filled == keys


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_every_value_has_a_comment(path: Path) -> None:
    ours, _, _ = path.read_text(encoding="utf-8").partition("\nhydra:\n  run:")
    for line in ours.splitlines():
        if re.match(r" *\w+: \S", line) and not line.startswith(("defaults:", "name:")):
            assert " # " in line, line


@pytest.mark.parametrize("path", sorted(CONF.glob("experiment/*")) + sorted(CONF.glob("debug/*")), ids=lambda p: p.stem)
def test_a_study_begins_with_its_command_and_what_it_shows(path: Path) -> None:
    package, command, shows = path.read_text(encoding="utf-8").splitlines()[:3]
    assert package == "# @package _global_"
    assert command == f"# python train.py {path.parent.name}={path.stem}"
    assert re.match(r"# .+\.$", shows)


@pytest.mark.parametrize("experiment", composer().options("experiment"))
@pytest.mark.parametrize("debug", ["", *composer().options("debug")])
def test_every_experiment_composes_with_every_debug_option(experiment: str, debug: str) -> None:
    compose(f"experiment={experiment}", *([f"debug={debug}"] if debug else []))


def test_every_key_has_one_line_of_help() -> None:
    schemas: list[type[Checked]] = [Train, *(s for base in GROUPS.values() for s in base.options.values())]
    for schema in schemas:
        for field in dataclasses.fields(schema):
            if field.name != "name":
                assert field.metadata["help"].splitlines() == [field.metadata["help"]], (
                    f"{schema.__name__}.{field.name}"
                )


def test_flat_names_every_value() -> None:
    values = flat(compose())
    assert values["clip.max"] == 1.0
    assert values["log.every"] == 1
    assert set(values) <= set(all_keys(Train)) | {f"{group}.name" for group in GROUPS}


@pytest.mark.parametrize(
    "overrides",
    [(), ("clip=value", "clip.include=[output.*]"), ("clip.norm_type=inf",), ("experiment=lstm_text",),
     ("model=mlp", "data=digits", "model.hidden=[]"), ("divergence.factor=null",), ("clip=none", "clip.max=3"),
     ("clip=chain", "clip@clip.links.whole=zclip", "clip.links.elements.max=3"), ("clip=quantile",)],
)  # fmt: skip
def test_a_saved_configuration_comes_back_equal(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    config = checked(composer().compose(list(overrides)))
    save(config, tmp_path)
    assert load(tmp_path) == config


def test_a_policy_is_one_class_and_one_file(tmp_path: Path) -> None:
    """A throw-away policy, added to a copy of the project, is offered, checked, run and put under the laws."""
    import shutil
    import subprocess
    import sys

    for part in ("conf", "src", "tests", "train.py", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tmp_path / part)
    (tmp_path / "src/gradclip/policies/half.py").write_text(
        "from dataclasses import dataclass\n"
        "from gradclip.policies.fixed import ClipByNorm\n\n"
        "@dataclass(kw_only=True)\n"
        "class Half(ClipByNorm):\n"
        '    name: str = "half"\n\n'
        "    def limits(self, measured, memory):\n"
        "        return measured.norms.new_full(measured.norms.shape, self.max), memory\n"
    )
    norm = (tmp_path / "conf/clip/norm.yaml").read_text(encoding="utf-8")
    (tmp_path / "conf/clip/half.yaml").write_text(norm.replace("norm@", "half@").replace("name: norm", "name: half"))
    environment = {"PYTHONPATH": str(tmp_path / "src"), "PATH": ""}
    run = [sys.executable, "train.py", "clip=half", "debug=fast", "model.hidden=8"]
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    laws = [sys.executable, "-m", "pytest", "tests/gradclip/test_laws.py", "-n", "0", "-p", "no:cacheprovider", "-k",
            "half and (limit or thousands or drop) and (float32 or not float)"]  # fmt: skip
    done = subprocess.run(laws, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"\b[1-9]\d+ passed", done.stdout), done.stdout


def test_an_option_without_its_schema_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "extra" / "clip"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("name: norm\nmax: 1.0\n")
    done = program("-cd", str(tmp_path / "extra"), "clip=mine", "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 2
    assert "has to begin with its schema: defaults: [/schema/clip/norm@_here_, _self_]" in done.stderr
