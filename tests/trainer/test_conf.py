"""conf/ and the schemas: every option has all its values, of the right type, and the same in YAML and in Python."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from gradclip.fields import Checked
from gradclip.policies import Policy
from runner.config import flatten
from runner.runs.run import save_config
from tests.support import configured_policies, policies
from tests.trainer.options import option_names
from tests.trainer.support import compose
from trainer.config import Train
from trainer.project import PROJECT, composer, load

pytestmark = pytest.mark.long

GROUPS = PROJECT.groups
OPTIONS = [(group, option) for group in GROUPS for option in option_names(group)]
FILES = sorted(PROJECT.conf.rglob("*.yaml"))
EXPERIMENTS = sorted(PROJECT.conf.glob("experiment/*")) + sorted(PROJECT.conf.glob("debug/*"))

# Combinations that contain every model with all data that it takes, and every option of the other groups.
PAIRS = [[f"model={model}", f"data={data}"] for model in option_names("model") for data in option_names("data")
         if GROUPS["data"].options[data].kind in GROUPS["model"].options[model].takes]  # fmt: skip
OTHERS = [[[f"{group}={name}"] for name in option_names(group)] for group in GROUPS if group not in ("model", "data")]
COMBINATIONS = [[override for parts in (PAIRS, *OTHERS) for override in parts[row % len(parts)]]
        for row in range(max(map(len, (PAIRS, *OTHERS))))]  # fmt: skip


@pytest.mark.parametrize("overrides", COMBINATIONS, ids=" ".join)
def test_every_option_composes_into_its_own_class_and_is_saved(overrides: list[str], tmp_path: Path) -> None:
    config = compose(*overrides)
    for group, _, name in (override.partition("=") for override in overrides):
        part = getattr(config, group)
        assert type(part) is GROUPS[group].options[name]
        assert part.name == name
    save_config(config, tmp_path)
    assert load(tmp_path) == config


def test_every_option_is_in_a_combination() -> None:
    """A model that takes no data, or data that no model takes, would be missing."""
    assert {override for row in COMBINATIONS for override in row} == {f"{group}={name}" for group, name in OPTIONS}


@pytest.mark.parametrize("group", GROUPS)
def test_every_schema_has_its_yaml_file(group: str) -> None:
    assert option_names(group) == sorted(composer().options()[group])


def test_every_policy_is_in_the_shared_list_of_policies() -> None:
    assert {policy.name for policy in policies()} == set(Policy.options)


@pytest.mark.parametrize("option", option_names("clip"))
def test_a_policy_has_the_same_values_in_yaml_and_in_python(option: str) -> None:
    part = configured_policies()[option]
    for field in dataclasses.fields(part):
        if field.default is not dataclasses.MISSING:
            assert getattr(part, field.name) == field.default, field.name
        elif field.default_factory is not dataclasses.MISSING:
            assert getattr(part, field.name) == field.default_factory(), field.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PROJECT.conf)))
def test_every_file_sets_the_keys_of_its_schema_that_have_no_default_and_names_no_code(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "_target_" not in text
    assert not re.search(r"\b(trainer|runner|gradclip|torch)\.\w", text), "a Python path breaks when a class is renamed"
    if path.parent.name in GROUPS:
        fields = dataclasses.fields(GROUPS[path.parent.name].options[path.stem])
        given = set(yaml.safe_load(text)) - {"defaults"}
        from_defaults = {"links"} if "@links." in text else set()
        without_default = {
            field.name
            for field in fields
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        }
        assert without_default | {"name"} <= given | from_defaults <= {field.name for field in fields}


@pytest.mark.parametrize("group", [group for group in GROUPS if group != "clip"])
def test_no_schema_repeats_a_default_of_its_yaml_file(group: str) -> None:
    for schema in GROUPS[group].options.values():
        for field in dataclasses.fields(schema):
            assert field.name == "name" or field.default is dataclasses.MISSING, f"{schema.__name__}.{field.name}"


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_a_study_begins_with_its_command_and_what_it_shows(path: Path) -> None:
    package, command, shows = path.read_text(encoding="utf-8").splitlines()[:3]
    assert package == "# @package _global_"
    assert command == f"# python train.py {path.parent.name}={path.stem}"
    assert re.match(r"# .+\.$", shows)


@pytest.mark.parametrize("experiment", composer().options()["experiment"])
@pytest.mark.parametrize("debug", ["", *composer().options()["debug"]])
def test_every_experiment_composes_with_every_debug_option(experiment: str, debug: str, tmp_path: Path) -> None:
    config = compose(f"experiment={experiment}", *([f"debug={debug}"] if debug else []))
    save_config(config, tmp_path)
    assert load(tmp_path) == config


def test_every_key_has_one_line_of_help() -> None:
    schemas: list[type[Checked]] = [Train, *(s for base in GROUPS.values() for s in base.options.values())]
    for schema in schemas:
        for field in dataclasses.fields(schema):
            if field.name != "name":
                assert field.metadata["help"].splitlines() == [field.metadata["help"]], (
                    f"{schema.__name__}.{field.name}"
                )


def test_the_project_lists_every_key() -> None:
    values = flatten(compose())
    assert values["clip.max"] == 1.0
    assert values["log.every"] == 1
    assert values.keys() <= {name for name, _ in PROJECT.all_keys()}


@pytest.mark.parametrize(
    "overrides",
    [("clip=value", "clip.include=[output.*]"), ("clip.norm_type=inf",), ("divergence.factor=null",),
     ("clip=none",), ("clip=chain", "clip@clip.links.whole=zclip", "clip.links.elements.max=3")],
)  # fmt: skip
def test_a_saved_configuration_is_loaded_equal(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    config = compose(*overrides)
    save_config(config, tmp_path)
    assert load(tmp_path) == config
