"""The description of a project: its groups and keys, and the metadata of its fields."""

from dataclasses import fields
from pathlib import Path

import pytest

from gradclip.policies import Policy
from runner.config import RunConfig, flatten, incompatible_keys, resolve_paths
from tests.runner.support import compose
from tests.runner.toy.toy import PROJECT, Linear, Schedule, Toy


def test_groups_are_the_fields_whose_type_is_a_group_of_options() -> None:
    assert PROJECT.groups == {"clip": Policy, "schedule": Schedule}
    assert set(PROJECT.groups["schedule"].options) == {"constant", "linear"}


def test_all_keys_are_those_of_every_option() -> None:
    keys = dict(PROJECT.all_keys())
    composed = set(flatten(compose())) | set(flatten(compose("schedule=linear")))
    assert {name for name in keys if not name.startswith("clip.")} == {
        name for name in composed if not name.startswith("clip.")
    } | {"clip", "schedule", "log", "checkpoint", "sweep", "sweep.slurm"}
    for policy in Policy.options.values():
        assert {f"clip.{field.name}" for field in fields(policy)} <= set(keys)
    assert keys["schedule.final"] in fields(Linear)
    assert keys["steps"].metadata["mutable_on_resume"]
    assert not keys["seed"].metadata["mutable_on_resume"]


def test_the_function_that_executes_a_run_is_imported_by_name() -> None:
    from tests.runner.toy import loop

    assert PROJECT.module == "tests.runner.toy.loop"
    assert PROJECT.execute is loop.execute
    assert PROJECT.conf == PROJECT.root / "conf"


def test_flatten_names_every_value() -> None:
    values = flatten(compose("clip.max=3", "schedule=linear"))
    assert (values["clip.max"], values["clip.name"], values["schedule.final"], values["log.every"]) == (
        3.0, "norm", 0.1, 1)  # fmt: skip
    assert not {"clip", "schedule", "log"} & values.keys()


def test_incompatible_keys_are_those_that_may_not_change() -> None:
    earlier = flatten(compose())
    assert incompatible_keys(earlier, compose()) == []
    assert incompatible_keys(earlier, compose("steps=9", "evaluate_every=2", "log.every=5", "checkpoint.keep=7")) == []
    assert incompatible_keys(earlier, compose("seed=2", "clip.max=3", "log.every=5")) == ["clip.max", "seed"]
    assert incompatible_keys(earlier, compose("schedule=linear")) == ["schedule.final", "schedule.name"]
    assert incompatible_keys(earlier | {"gone": 1}, compose()) == ["gone"]
    del earlier["target"]
    assert incompatible_keys(earlier, compose()) == ["target"], "a key that the earlier program did not have"


def test_paths_become_absolute_with_their_links_resolved(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    config = compose("initial=link/one.txt", f"incident={tmp_path}/two.txt")
    resolve_paths(config, tmp_path)
    assert config.initial == str((tmp_path / "real" / "one.txt").resolve())
    assert config.incident == str(tmp_path / "two.txt")
    untouched = compose()
    resolve_paths(untouched, tmp_path)
    assert untouched == compose()


@pytest.mark.parametrize(("schedule", "why"), [("constant", None), ("linear", "schedule=linear spans all steps")])
def test_a_project_says_why_the_steps_are_fixed(schedule: str, why: str | None) -> None:
    assert compose(f"schedule={schedule}").fixed_steps() == why
    assert RunConfig.fixed_steps(compose()) is None


def test_a_schema_checks_pairs_of_values() -> None:
    with pytest.raises(Exception, match="evaluate_every=9: is more than steps=6"):
        compose("evaluate_every=9")
    assert type(compose()) is Toy
