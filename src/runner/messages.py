"""One-line messages about overrides, keys and values: what was written, what is allowed, and the nearest name."""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from gradclip.errors import format_value
from gradclip.fields import Checked, Option
from runner.config import Project, flatten

OTHER_NAMES = {  # what other programs call a key
    "max_norm": "clip.max", "clip_value": "clip.max", "max_grad_norm": "clip.max", "gradient_clip_val": "clip.max",
    "grad_clip": "clip.max", "clip_grad_norm": "clip.max", "learning_rate": "optimizer.lr", "epochs": "steps",
    "num_epochs": "steps", "max_epochs": "steps", "max_steps": "steps", "accumulate_grad_batches": "micro_batches",
    "gradient_accumulation_steps": "micro_batches",
}  # fmt: skip
REPLACED_HYDRA_GROUPS = {  # Hydra's groups that are not used, and the settings that replace them
    "hydra/sweeper": "sweep.method=grid or sweep.method=optuna says what -m does",
    "hydra/launcher": "sweep.jobs=4 runs four jobs at once, and sweep.launcher=slurm runs them on a cluster",
}


def replaced_hydra_group(override: str) -> str:
    """Message for a choice or a setting of a group in REPLACED_HYDRA_GROUPS."""
    group = next(group for group in REPLACED_HYDRA_GROUPS if override.replace(".", "/").lstrip("+~").startswith(group))
    return f"{override}: not used here; {REPLACED_HYDRA_GROUPS[group]}"


def unparsable_override(override: str) -> str:
    """Message for an override that Hydra's grammar cannot parse."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        return f"{override}: an override is key=value, and a flag begins with -"
    if not re.fullmatch(r"[~+]*[A-Za-z_][\w/@-]*(\.[\w@-]+)*", key, re.ASCII):
        return f"{override}: {key!r} cannot be read as a key"
    return f"{override}: cannot be read; {quoting(key, value)}"


def quoting(key: str, value: str) -> str:
    """The part of a message that shows an override whose value Hydra and a shell take as it is written."""
    escaped = value.replace("'", "\\'")
    return f"put the value in quotes of its own: \"{key}='{escaped}'\""


def number_for_text(override: str, value: Any) -> str:
    """Message for a value that Hydra's grammar reads as a number, although its key takes text."""
    key, _, text = override.partition("=")
    return f"{override}: is read as the number {value}; {quoting(key, text)}"


def unknown_option(group: str, option: Any, options: Iterable[str]) -> str:
    """Message for an option that a group does not have."""
    options = sorted(options)
    hint = nearest_name(str(option), options)
    meant = f"did you mean {group}={hint}? There" if hint else "there"
    return f"{group}={format_value(option)}: no such option; {meant} are {', '.join(options)}"


def scalar_in_file(
    file: str, kind: str, value: str, project: Project[Any] | None = None, overrides: Sequence[str] = ()
) -> str:
    """Message for a plain value, in a file, of a key whose value is an option of a group or has keys below it.

    file: its path relative to conf/, without the ending. kind: the name of the class that describes the value.
    overrides: those of the command line, which may add folders to conf/.
    """
    if (group := _group_of(kind, project)) is None:
        fields = project.all_keys() if project else ()
        keys = [key for key, field in fields if getattr(field.type, "__name__", "") == kind]
        return f"{file}.yaml: {keys[0] if keys else kind}: {value}: must be given by its keys"
    base = project.groups[group] if project else Option
    if value not in base.options:
        return f"{file}.yaml: {unknown_option(group, value, base.options)}"
    key = _key_with_value(file, group, value, project, overrides)
    entry = _defaults_entry(file, group, key)
    return f"{file}.yaml: {key}: {value}: an option is chosen in the defaults list: defaults: [{entry}: {value}]"


def _defaults_entry(file: str, group: str, key: str) -> str:
    """The entry of a file's defaults list, without the option, that chooses the option at a key of the file."""
    if key == group:
        return f"override /{group}" if "/" in file else group
    if file.startswith(f"{group}/"):  # an option's own file, whose keys are relative to the group
        return f"/{group}@{key}"
    return f"override /{group}@{key}"


def _key_with_value(
    file: str, group: str, value: str, project: Project[Any] | None, overrides: Sequence[str] = ()
) -> str:
    """The dotted key in a file that has this value and takes an option of a group; the group if none is found.

    OmegaConf's error does not name the key of a value that it cannot merge.
    """
    folders = [*([project.conf] if project else []), *re.findall(r"file://([^],'\"]+)", " ".join(overrides))]
    path = next((path for folder in folders if (path := Path(folder, f"{file}.yaml")).is_file()), None)
    values = {} if path is None else flatten(yaml.safe_load(path.read_text(encoding="utf-8")))
    keys = [key for key, other in values.items() if str(other) == value]
    return next((key for key in keys if file.startswith(f"{group}/") or key.split(".")[0] == group), group)


def scalar_override(key: str, kind: str, value: str, project: Project[Any] | None) -> str:
    """Message for an override that gives such a key a plain value. kind: as in `scalar_in_file`."""
    group = _group_of(kind, project)
    form = f"an option is chosen by {group}@{key}={value}" if group else "must be given by its keys"
    return f"{key}={value}: {form}"


def _group_of(kind: str, project: Project[Any] | None) -> str | None:
    """The group with a class of this name; None if there is none."""
    for group, base in (project.groups if project else {}).items():
        if kind in {schema.__name__ for schema in (base, *base.options.values())}:
            return group
    return None


def unknown_key(
    key: str, owner: type | None, project: Project[Any] | None = None, overrides: Sequence[str] = ()
) -> str:
    """Message for a key that a node of the configuration does not have.

    owner: the class of the node. overrides: those of the command line, from which the message quotes the value.
    """
    parent, _, leaf = key.rpartition(".")
    written = next((o.lstrip("+") for o in overrides if o.lstrip("+").startswith(f"{key}=")), key)
    if key in ("experiment", "debug"):
        return f"{written}: is chosen on the command line, and its file must begin with # @package _global_"
    line = f"{written}: no such key"
    if not _is_schema(owner):
        return line
    group = parent.split(".")[0]
    name = getattr(owner, "name", None)
    chosen_by = group if parent == group else f"{group}@{parent}"  # the override's key that chooses the option
    if owner and issubclass(owner, Option) and not name:  # the base of a group: the option's file names no schema
        chosen = (o.partition("=")[2] for o in overrides if o.lstrip("+").startswith(f"{group}="))
        name = next(chosen, "<option>")
        return f"{line}; conf/{group}/{name}.yaml must begin with defaults: [/schema/{group}/{name}@_here_, _self_]"
    line += f" in {chosen_by}={name}" if name else ""
    if advice := getattr(owner, "removed", {}).get(leaf):
        return f"{line}; {advice}"
    if others := _options_with(group, leaf, project):
        return f"{line}; it belongs to {_options_listed(chosen_by, others)}"
    if leaf in OTHER_NAMES and project and OTHER_NAMES[leaf] in {name for name, _ in project.all_keys()}:
        return f"{line}; it is {OTHER_NAMES[leaf]} here"
    path = f"{parent}." if parent else ""
    names = [field.name for field in dataclasses.fields(owner) if field.name != "name"] if owner else []
    sibling = nearest_name(leaf, names)
    hint = _same_spelling(key, project) or (path + sibling if sibling else nearest_key(key, project))
    if hint and not has_field(owner, hint) and (others := _options_with(group, hint, project)):
        return f"{line}; {_options_listed(chosen_by, others)} {'has' if len(others) == 1 else 'have'} {hint}"
    there = ", ".join(path + name for name in names)
    return f"{line}; did you mean {hint}?" if hint else f"{line}; there are {there}"


def wrong_value(key: str, value: Any, values: str, overrides: Sequence[str] = ()) -> str:
    """Message for a value of the wrong type or out of range.

    values: those that are allowed, in words. overrides: those of the command line, from which the message quotes the
    value as it was written.
    """
    lines = [line.lstrip("+") for line in overrides if not re.search(r"[,($]", line)]
    written = next((line for line in reversed(lines) if line.startswith(f"{key}=")), f"{key}={format_value(value)}")
    return f"{written}: must be {values}"


def missing_value(key: str, project: Project[Any] | None = None) -> str:
    """Message for a key without a value."""
    options = _options(key, project)
    if options:
        return f"{key}: has no value; choose one of {', '.join(sorted(options))}"
    in_group = project is not None and key.split(".")[0] in project.groups
    return f"{key}: has no value" + ("" if in_group else "; give it one in conf/train.yaml")


def nearest_name(name: str, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The most similar of the names; None if none is similar."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1, cutoff=cutoff)), None)


def nearest_key(key: str, project: Project[Any] | None) -> str | None:
    """The dotted key of the project with the same last part; if there is none, the most similar one.

    Of several with the same last part it is one that all options of its group have.
    """
    if project is None:
        return None
    keys = sorted({name for name, _ in project.all_keys()})
    leaf = key.rpartition(".")[2]
    same_leaf = [name for name in keys if name.rpartition(".")[2] == leaf]
    common = [name for name in same_leaf if has_field(project.groups.get(name.split(".")[0], Option), leaf)]
    nearest = next(iter([*common, *same_leaf]), None) or nearest_name(key, keys)
    if nearest and nearest.rpartition(".")[0] == key.rpartition(".")[0] != "":  # the part that both have says nothing
        return nearest if nearest_name(leaf, [nearest.rpartition(".")[2]], cutoff=0.5) else None
    return nearest


def _same_spelling(key: str, project: Project[Any] | None) -> str | None:
    """The key of the project that differs in dots and underscores only, such as log.every for log_every."""
    keys = [name for name, _ in project.all_keys()] if project else []
    return next((name for name in keys if name.replace(".", "_") == key.replace(".", "_")), None)


def _options(group: str, project: Project[Any] | None) -> dict[str, type[Any]]:
    groups = project.groups if project else {}
    return groups[group].options if group in groups else {}


def _options_with(group: str, key: str, project: Project[Any] | None) -> list[str]:
    """The options of a group that have a key."""
    return [option for option, schema in _options(group, project).items() if has_field(schema, key)]


def _options_listed(group: str, options: Sequence[str]) -> str:
    """Up to three options as overrides, and the number of the others."""
    named = [f"{group}={option}" for option in options[:3]]
    return " and ".join(named if len(options) <= 3 else [", ".join(named), f"{len(options) - 3} more"])


def _is_schema(owner: Any) -> bool:
    return isinstance(owner, type) and issubclass(owner, Checked)


def has_field(owner: type | None, key: str) -> bool:
    """Whether a schema has the last part of a dotted key."""
    names = {field.name for field in dataclasses.fields(owner)} if owner and _is_schema(owner) else set()
    return key.rpartition(".")[2] in names
