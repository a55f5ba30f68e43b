"""Configurations as dataclasses: saved, loaded, and extended by new options."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from gradclip import ClipByNorm, Policy
from gradclip.errors import InvalidField
from runner.compose import Composer, load
from runner.config import field, resolve_paths
from runner.errors import UserError
from runner.runs.run import save_config
from runner.sweeps.space import axes
from tests.comparison import scalars
from tests.runner.support import PROJECT, compose, composer, train
from tests.runner.toy.toy import Toy


@pytest.mark.parametrize(
    "overrides",
    [(), ("clip=value", "clip.include=[weight]"), ("clip.norm_type=inf",), ("experiment=calm", "schedule=linear"),
     ("clip=none",), ("initial='it\\'s a \"text\"'", "clip=zclip")],
)  # fmt: skip
def test_a_saved_configuration_comes_back_equal(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    config = compose(*overrides)
    save_config(config, tmp_path)
    assert load(tmp_path, PROJECT) == config


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("clip: {name: nrom}", "clip=nrom: no such option"),
        ("a: &b 1\nc: *b", "has no aliases"),
        ("[1, 2]", "not the configuration of a run"),
        ("7", "not the configuration of a run"),
        ("[" * 5000, "not the configuration of a run"),
        ("clip: [", "not the configuration of a run"),
        ("x" * (1 << 21), "bytes are not the configuration of a run"),
    ],
)
def test_a_file_that_is_not_a_saved_configuration_is_refused(content: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=line):
        load(tmp_path, PROJECT)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("~/x.txt", "{home}/x.txt"),
        ("~", "{home}"),
        ("x/~y.txt", "{base}/x/~y.txt"),
        ("~no-such-user/x", "{base}/~no-such-user/x"),
    ],
)
def test_a_home_directory_in_a_path_is_expanded(
    value: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell does not expand `~` in quotes or in a file."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    config = compose(f"initial='{value}'")
    resolve_paths(config, tmp_path / "base")
    assert config.initial == expected.format(home=tmp_path / "home", base=tmp_path / "base")


def test_a_home_directory_in_a_path_of_a_sweep_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for line, values in (("initial='~/x'", ["x"]), ("initial='~/x','~/y'", ["x", "y"])):
        (axis,) = axes(composer(), [line])
        assert axis.values == [f"initial={tmp_path / value}" for value in values]


def test_a_policy_is_one_class_and_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be chosen, checked, run, saved and loaded; tests/gradclip tests each of `Policy.options`."""
    monkeypatch.setattr(Policy, "options", dict(Policy.options))

    @dataclass(kw_only=True)
    class Half(ClipByNorm):
        name: str = "half"

    (tmp_path / "conf" / "clip").mkdir(parents=True)
    (tmp_path / "conf" / "clip" / "half.yaml").write_text(
        "defaults: [/schema/clip/half@_here_, _self_]\nname: half\nmax: 0.5\n"
    )
    own, conf = Composer(PROJECT), f"hydra.searchpath=[file://{tmp_path / 'conf'}]"
    with pytest.raises(Exception, match=r"max=-1\.0: must be a number above 0"):
        own.checked([conf, "clip=half", "clip.max=-1"])
    config = own.checked([conf, "clip=half"])
    assert type(config.clip) is Half
    assert train(config, tmp_path / "run").state == "finished"
    assert dict(scalars(tmp_path / "run"))["clip/limit"] == dict(scalars(tmp_path / "run"))["grad_norm/after"]
    save_config(config, tmp_path / "run")
    assert load(tmp_path / "run", PROJECT) == config


@dataclass(kw_only=True)
class Far(Toy):
    """The toy with another range for one of its keys."""

    target: float = field("the value of all weights of the map that is learned", ge=5)


def test_two_projects_of_one_process_have_their_own_schemas() -> None:
    near, far = composer(), Composer(replace(PROJECT, schema=Far))
    with pytest.raises(InvalidField, match=r"target=1\.0: must be a number of at least 5"):
        far.checked([])
    assert near.checked([]) == compose()
    assert type(far.checked(["target=6"])) is Far
