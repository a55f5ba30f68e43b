"""Composes configurations with Hydra and turns them into checked dataclasses; no other module does."""

import dataclasses
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Generic

import hydra
import yaml
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from gradclip.errors import InvalidField
from gradclip.fields import Checked, Option
from runner.config import Config, Project
from runner.errors import UserError
from runner.hydra_settings import check_hydra_settings
from runner.messages import missing_value, unknown_key, unknown_option
from runner.overrides import (
    UNDECLARED_ERRORS,
    check_options,
    check_searchpath,
    declared_errors,
    option_groups,
    parse_overrides,
)
from runner.runs.run import CONFIG_FILE, check_run

MAX_CONFIG_BYTES = 1 << 20  # a saved configuration has 2,000 to 5,000 bytes


def register(project: Project[Any]) -> None:
    """Stores a project's schemas under `schema/` in Hydra's ConfigStore, and defines the resolver `run_name`.

    All projects of a process share the store.
    """
    store = ConfigStore.instance()
    store.store(name="train", node=project.schema, group="schema")
    for group, base in project.groups.items():
        for name, schema in base.options.items():
            store.store(name=name, node=schema, group=f"schema/{group}")
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)


@cache
def run_name() -> str:
    """The name of the folder of the run that a process starts; it is the same in every composition."""
    return new_run_name()


def new_run_name() -> str:
    """A new name for a run's folder, `<date>_<time>_<6 hex>`."""
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{secrets.token_hex(3)}"


class Composer(Generic[Config]):
    """Composes the configurations of a project from its conf/, as `@hydra.main` does.

    name: the primary configuration file, without the ending.
    """

    def __init__(self, project: Project[Config], name: str = "train"):
        self.project, self.name = project, name

    @contextmanager
    def _initialized(self) -> Iterator[ConfigLoader]:
        """Initializes Hydra for this project in the block, and restores its earlier state afterwards."""
        folder = str(self.project.conf)
        with hydra.initialize_config_dir(folder, version_base="1.3", job_name=self.project.script.stem):
            yield GlobalHydra.instance().config_loader()

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The whole configuration, with Hydra's own node. Raises UserError and what Hydra and OmegaConf raise."""
        register(self.project)  # another project may have been registered since
        with self._initialized() as loader:
            parsed = parse_overrides(overrides, loader, self.project)
            if added := [override for override in parsed if override.key_or_group == "hydra.searchpath"]:
                check_searchpath(added)  # the folders may add options, which Hydra alone finds and checks
            else:
                check_options(parsed, loader)
            with declared_errors(self.project):
                config = hydra.compose(self.name, list(overrides), return_hydra_config=True)
        check_hydra_settings(config.hydra, self.project.script.stem)
        return config

    def checked(self, overrides: Sequence[str]) -> Config:
        """The configuration for these overrides as dataclasses. Raises what `compose` and `checked` raise."""
        return checked(self.compose(overrides), self.project, overrides)

    def parse(self, overrides: Sequence[str]) -> list[Override]:
        """The overrides, parsed by Hydra's grammar. Raises UserError and OverrideParseException."""
        with self._initialized() as loader:
            return parse_overrides(overrides, loader, self.project)

    def options(self) -> dict[str, list[str]]:
        """The options of every group in conf/, without Hydra's own groups and the schemas."""
        with self._initialized() as loader:
            return {group: loader.get_group_options(group) for group in option_groups(loader)}


def checked(config: DictConfig, project: Project[Config], overrides: Sequence[str] = ()) -> Config:
    """Turns a composed configuration of a project into its dataclasses.

    Raises InvalidField, with the dotted key, for a value out of range, and UserError for an unknown key
    (which Hydra accepts with `+`) and for values that do not go together.
    """
    built = checked_node(without_hydra(config), "", project, overrides)
    assert isinstance(built, project.schema)
    return built


def checked_node(config: DictConfig, name: str, project: Project[Any], overrides: Sequence[str] = ()) -> Any:
    """Turns a node into its dataclass. name: its dotted key, empty for the root. Raises what `checked` raises."""
    for path, node in _typed_nodes(config, name):
        owner = schema_of(node)
        assert owner is not None
        _check_names(node, owner, path, project, overrides)
        try:
            built = OmegaConf.to_object(node)
        except InvalidField as error:
            raise InvalidField(_join(path, error.key), error.value, error.allowed) from None
    return built


def _check_names(
    node: DictConfig, owner: type[Checked], path: str, project: Project[Any], overrides: Sequence[str]
) -> None:
    """Raises UserError unless a node has exactly the fields of its schema, and an option names its schema."""
    names = {field.name for field in dataclasses.fields(owner)}
    for key in node:
        if key not in names:
            raise UserError(unknown_key(_join(path, key), owner, project, overrides))
    for name in names:
        if name not in node:
            raise UserError(missing_value(_join(path, name), project))
    if issubclass(owner, Option) and owner.__dict__.get("name") is None:
        raise UserError(f"{path}={node.get('name')}: its file in conf/{path}/ must begin with its schema: "
                        f"defaults: [/schema/{path}/{node.get('name')}@_here_, _self_]")  # fmt: skip


def load(folder: Path, project: Project[Config]) -> Config:
    """Loads the configuration that a run saved; the files in conf/ are not read.

    Raises UserError if there is none, or one that another version of the program saved.
    """
    check_run(folder)
    path = folder / CONFIG_FILE
    saved = read_yaml(path)
    config = OmegaConf.structured(project.schema)
    for group, base in project.groups.items():
        config[group] = _typed(OmegaConf.select(saved, group), base, group, path)
    if found := _difference(saved, config, ""):
        raise UserError(f"{path}: written by another version of this program: {found}")
    return checked(OmegaConf.merge(config, saved), project)  # type: ignore[arg-type]


def has_default(field: "dataclasses.Field[Any]") -> bool:
    """Whether a field may be left out."""
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _difference(saved: DictConfig, schema: DictConfig, path: str) -> str | None:
    """Describes the first key that only a saved configuration or only the schema has; None if they agree.

    A key that the saved configuration lacks has its default, if it has one: a later version may add such keys.
    """
    owner = schema_of(schema)
    if owner is None:
        return None
    names = [field.name for field in dataclasses.fields(owner)]
    with_default = {field.name for field in dataclasses.fields(owner) if has_default(field)}
    for key in [*names, *saved]:
        if key not in set(saved) and key in with_default:
            continue
        if key not in set(saved):
            return f"the key {_join(path, key)} is missing in it"
        if key not in names:
            return f"this version has no key {_join(path, key)}"
        node, inner = saved[key], schema.get(key)
        below = isinstance(node, DictConfig) and isinstance(inner, DictConfig)
        if below and (found := _difference(node, inner, _join(path, key))) is not None:
            return found
    return None


def read_yaml(path: Path) -> DictConfig:
    """Reads the plain values of a YAML file in a run's folder, without interpreting tags or expanding aliases.

    Raises UserError for a file that is too large, is not YAML or has aliases.
    """
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise UserError(f"{path}: {path.stat().st_size:,} bytes are not the configuration of a run")
        text = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise UserError(f"{path}: not the configuration of a run, which has no aliases")
        saved = OmegaConf.create(text)
    except (*UNDECLARED_ERRORS, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: not the configuration of a run: {' '.join(str(error).split())}") from error
    if not isinstance(saved, DictConfig):
        raise UserError(f"{path}: not the configuration of a run")
    return saved


def _typed(saved: Any, base: type[Any], group: str, path: Path) -> DictConfig:
    """The schema that a saved option names, with the schemas of its links if it is a chain of policies."""
    name = saved.get("name") if isinstance(saved, DictConfig) else None
    if name not in base.options:
        raise UserError(f"{path}: {unknown_option(group, name, base.options)}")
    schema: DictConfig = OmegaConf.structured(base.options[name])
    if "links" in saved:
        schema.links = {
            label: _typed(link, base, f"{group}.links.{label}", path) for label, link in saved.links.items()
        }
    return schema


def without_hydra(config: DictConfig) -> DictConfig:
    """A copy of the configuration without Hydra's own node; the configuration itself if it has none."""
    if "hydra" not in config:
        return config
    copy = config.copy()
    with flag_override(copy, ["struct", "readonly"], False):
        copy.pop("hydra")
    return copy


def _typed_nodes(node: DictConfig, path: str) -> Iterator[tuple[str, DictConfig]]:
    """Yields every node with a schema and its dotted key, inner nodes first, so that an error has the whole key."""
    for key in map(str, node):
        if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key):
            continue
        if isinstance(child := node[key], DictConfig):
            yield from _typed_nodes(child, _join(path, key))
    if schema_of(node) is not None:
        yield path, node


def _join(path: str, key: Any) -> str:
    """The dotted key of a key below a node. path: the node's dotted key, empty for the root."""
    return f"{path}.{key}" if path else str(key)


def schema_of(node: DictConfig) -> type[Checked] | None:
    """The dataclass that a node is checked against; None for a plain node."""
    owner = OmegaConf.get_type(node)
    return owner if isinstance(owner, type) and issubclass(owner, Checked) else None
