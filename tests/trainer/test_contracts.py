"""Every option, experiment and script keeps its contract; a problem is printed as a sentence for its author."""

import os
from functools import partial

import pytest

from tests.trainer import contracts
from tests.trainer.options import option_names
from trainer.project import PROJECT, composer

CHECKS = {
    "model": contracts.model_problems,
    "data": contracts.data_problems,
    "optimizer": contracts.optimizer_problems,
    "schedule": contracts.schedule_problems,
    "clip": contracts.policy_problems,
}
MODULES = sorted((PROJECT.root / "scripts").glob("*.py"))
SCRIPTS = [path.stem for path in MODULES if 'if __name__ == "__main__"' in path.read_text(encoding="utf-8")]
OPTIONS = [(group, name) for group in CHECKS for name in option_names(group)]


@pytest.mark.parametrize(("group", "name"), [(group, name) for group in PROJECT.groups for name in option_names(group)])
def test_every_option_has_its_files(group: str, name: str) -> None:
    found = contracts.problems(partial(contracts.option_problems, group), group, name)
    assert not found, os.linesep.join(found)


@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_every_option_keeps_its_contract(group: str, name: str) -> None:
    found = contracts.problems(CHECKS[group], group, name)
    assert not found, os.linesep.join(found)


@pytest.mark.parametrize("name", composer().options()["experiment"])
def test_every_experiment_keeps_its_contract(name: str) -> None:
    found = contracts.problems(contracts.experiment_problems, "experiment", name)
    assert not found, os.linesep.join(found)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_keeps_its_contract(name: str) -> None:
    found = contracts.problems(contracts.script_problems, "script", name)
    assert not found, os.linesep.join(found)
