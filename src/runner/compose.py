"""Hydra in, checked dataclasses out."""

import dataclasses
import importlib
import secrets
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Generic

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigNode, ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from gradclip.errors import InvalidField
from gradclip.fields import Checked, Option
from runner.config import Config, Project
from runner.errors import UserError, missing, unknown_key, unknown_option, unreadable
from runner.runs.run import SAVED

LARGEST = 1 << 20  # bytes of such a file, which has two thousand
VALUES = ("nan", "inf", "null", "true", "false")  # words that Hydra's grammar does not read as text


def register(project: Project[Any]) -> None:
    """Makes a project's schemas known to Hydra under `schema/`, and `run_id` to the configuration."""
    store = ConfigStore.instance()
    store.store(name="train", node=project.schema, group="schema")
    for group, base in project.groups.items():
        store.repo["schema"][group] = Schemas(group, base.options)
    store.repo["schema"]["launcher"] = Launchers()
    hydra = store.repo["hydra"]
    hydra["launcher"] = WithoutPlugins(hydra.get("launcher", {}))
    OmegaConf.register_new_resolver("run_id", lambda: secrets.token_hex(3), use_cache=True, replace=True)


class Schemas(dict[str, Any]):
    """A group of Hydra's store whose schemas are built when they are looked up: a run needs seven of thirty."""

    def __init__(self, group: str, options: dict[str, type[Any]]):
        super().__init__({f"{name}.yaml": schema for name, schema in options.items()})
        self._group = f"schema/{group}"

    def __getitem__(self, name: str) -> ConfigNode:
        schema = OmegaConf.structured(super().__getitem__(name))
        return ConfigNode(name=name, node=schema, group=self._group, package=None, provider=None)


LAUNCHERS = {  # where the types of a launcher's keys stand, in its plug-in's own module
    "joblib": ("hydra_joblib_launcher", "JobLibLauncherConf"),
    "submitit_local": ("hydra_submitit_launcher", "LocalQueueConf"),
    "submitit_slurm": ("hydra_submitit_launcher", "SlurmQueueConf"),
}


class Launchers(dict[str, Any]):
    """The schemas of the launchers that conf/hydra/launcher has values for, from plug-ins that may be absent."""

    def __init__(self) -> None:
        super().__init__({f"{name}.yaml": where for name, where in LAUNCHERS.items()})

    def __getitem__(self, name: str) -> ConfigNode:
        package, schema = super().__getitem__(name)
        launcher = name.removesuffix(".yaml")
        try:
            module = importlib.import_module(f"hydra_plugins.{package}.config")
        except ImportError:
            needs = f'needs {package.replace("_", "-")}: pip install -c constraints.txt -e ".[launchers]"'
            raise UserError(f"hydra/launcher={launcher} {needs}") from None
        node = OmegaConf.structured(getattr(module, schema))
        return ConfigNode(name=name, node=node, group="schema/launcher", package=None, provider=None)


class WithoutPlugins(dict[str, Any]):
    """The launchers in Hydra's store, without those of plug-ins that conf/hydra/launcher has a file for.

    Two configurations of one name would be merged, each with a class of its own.
    """

    def __init__(self, entries: dict[str, Any]):
        super().__init__()
        for name, node in entries.items():
            self[name] = node

    def __setitem__(self, name: str, node: Any) -> None:
        if name.removesuffix(".yaml") not in LAUNCHERS:
            super().__setitem__(name, node)


class Composer(Generic[Config]):
    """Composes a project's configurations, by default from its conf/, just as `@hydra.main` will."""

    def __init__(
        self, project: Project[Config], folder: Path | None = None, name: str = "train", extra: Path | None = None
    ):
        setup_globals()
        register(project)
        path = create_config_search_path(str(folder or project.conf))
        if extra is not None:
            path.prepend("command-line", f"file://{extra}", anchor=SearchPathQuery(provider="schema"))
        self.project, self.name = project, name
        self.loader = ConfigLoaderImpl(path)

    def quoted(self, overrides: list[str]) -> list[str]:
        """The overrides with quotes around an option whose name Hydra would read as a value, such as debug=nan."""
        return [self._quoted(override) for override in overrides]

    def _quoted(self, override: str) -> str:
        group, equals, value = override.partition("=")
        options = self.options(group) if group in self.groups() else []
        words = value.split(",")
        if not equals or not all(word in options for word in words):
            return override
        return f"{group}=" + ",".join(f"'{word}'" if word.lower() in VALUES else word for word in words)

    def compose(self, overrides: list[str], multirun: bool = False) -> DictConfig:
        """The whole tree, Hydra's own node included."""
        register(self.project)  # Hydra's store is the process's, and another project may have used it since
        parsed = self.parse(overrides)
        # What further folders on the search path offer, Hydra alone knows, which then checks the options itself.
        if not any(override.key_or_group == "hydra.searchpath" for override in parsed):
            self.check_options([override for override in parsed if not override.is_sweep_override()])
        mode = RunMode.MULTIRUN if multirun else RunMode.RUN
        return self.loader.load_configuration(self.name, overrides, run_mode=mode)

    def checked(self, overrides: Sequence[str]) -> Config:
        """The configuration that these overrides give, as objects. Raises as `compose` and `checked` do."""
        quoted = self.quoted(list(overrides))
        return checked(self.compose(quoted), self.project, quoted)

    def parse(self, overrides: list[str]) -> list[Override]:
        for override in overrides:
            if not override.partition("=")[0].strip("+"):
                raise UserError(unreadable(override))
        parsed: list[Override] = OverridesParser.create(config_loader=self.loader).parse_overrides(overrides)
        return parsed

    def check_options(self, overrides: list[Override]) -> None:
        """Raises UserError for a choice that its group does not have; Hydra has no line of its own for half of them."""
        groups = self.groups()
        for override in overrides:
            group, value = override.key_or_group, override.value()
            if group not in groups or override.is_delete() or isinstance(value, dict):
                continue
            if override.is_add() or override.is_force_add():
                line = str(override.input_line)
                raise UserError(f"{line}: the group is there already; write {line.lstrip('+')}")
            if value not in (options := self.options(group)):
                raise UserError(unknown_option(group, value, options))

    def options(self, group: str) -> list[str]:
        """The options of a group; empty where there is no such group."""
        return [name for name in self.loader.get_group_options(group) if name]

    @cache  # noqa: B019 - one composer lives as long as the program
    def groups(self) -> list[str]:
        """The groups in conf/, without Hydra's own and the schemas."""
        return [name for name in self.loader.list_groups("") if name not in ("hydra", "schema")]


def checked(config: DictConfig, project: Project[Config], overrides: Sequence[str] = ()) -> Config:
    """The real objects behind a composed configuration of a project.

    Raises InvalidField for a value out of range, with its whole key, and UserError for an unknown key
    (which Hydra lets pass with `+`) or for values that do not agree.
    """
    config = without_hydra(config)
    for path, node in _typed_nodes(config, ""):
        owner = schema_of(node)
        assert owner is not None
        names = {field.name for field in dataclasses.fields(owner)}
        for key in node:
            if key not in names:
                raise UserError(unknown_key(_join(path, key), owner, project, overrides))
        for name in names:
            if name not in node:
                raise UserError(missing(_join(path, name), project))
        if issubclass(owner, Option) and owner.__dict__.get("name") is None:
            raise UserError(f"{path}={node.get('name')}: its file in conf/{path}/ has to begin with its schema: "
                          f"defaults: [/schema/{path}/{node.get('name')}@_here_, _self_]")  # fmt: skip
        try:
            built = OmegaConf.to_object(node)
        except InvalidField as error:
            raise InvalidField(_join(path, error.key), error.value, error.allowed) from None
    assert isinstance(built, project.schema)
    return built


def load(folder: Path, project: Project[Config]) -> Config:
    """The configuration with which a run was made, whatever the files in conf/ say today.

    Raises UserError if the folder holds none, and as `checked` does.
    """
    path = folder / SAVED
    if not path.is_file():
        raise UserError(f"{folder}: not the folder of a run; it has no {SAVED}")
    saved = _read(path)
    config = OmegaConf.structured(project.schema)
    for group, base in project.groups.items():
        config[group] = _typed(OmegaConf.select(saved, group), base, group, path)
    return checked(OmegaConf.merge(config, saved), project)  # type: ignore[arg-type]


def _read(path: Path) -> DictConfig:
    """A saved configuration's plain values. Nothing in it is executed, and no few lines grow into a large tree."""
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path}: {path.stat().st_size:,} bytes are not the configuration of a run")
        text = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise UserError(f"{path}: not the configuration of a run, which has no aliases")
        saved = OmegaConf.create(text)
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: not the configuration of a run: {' '.join(str(error).split())}") from error
    if not isinstance(saved, DictConfig):
        raise UserError(f"{path}: not the configuration of a run")
    return saved


def _typed(saved: Any, base: type[Any], group: str, path: Path) -> DictConfig:
    """The schema that a saved node names, with those of the links of a chain in it."""
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
    """A copy without Hydra's own node."""
    if "hydra" not in config:
        return config
    with flag_override(config, ["struct", "readonly"], False):
        hydra = config.pop("hydra")
        copy = config.copy()
        config.hydra = hydra
    return copy


def _typed_nodes(node: DictConfig, path: str) -> Iterator[tuple[str, DictConfig]]:
    """Every node with a schema, the inner ones first, so that an error comes with its whole path."""
    for key in node:
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            yield from _typed_nodes(child, _join(path, key))
    if schema_of(node) is not None:
        yield path, node


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def schema_of(node: DictConfig) -> type[Checked] | None:
    """The dataclass whose types a node enforces."""
    owner = OmegaConf.get_type(node)
    return owner if isinstance(owner, type) and issubclass(owner, Checked) else None
