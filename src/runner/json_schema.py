"""JSON schemas of the files in conf/, made from the dataclasses, by which an editor completes and checks them."""

import dataclasses
import sys
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from gradclip.fields import Checked, Option, field_type
from runner.config import Project

DIALECT = "https://json-schema.org/draft/2020-12/schema"
BOUNDS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}
TYPES = {int: "integer", float: "number", str: "string", bool: "boolean"}
INTERPOLATION = {"type": "string", "pattern": r"^\$\{.+\}$"}
Schema = dict[str, Any]


def schemas(project: Project[Any]) -> Iterator[tuple[str, Schema]]:
    """The schema of every file in conf/, with the file's path relative to conf/."""
    groups = project.groups
    for group, base in groups.items():
        for name, option in sorted(base.options.items()):
            properties = fields_of(option, {}) | {"defaults": {"type": "array"}}
            yield f"{group}/{name}.yaml", whole(properties | {"name": {"const": name}}, option)
    for path in sorted(project.conf.rglob("*.yaml")):
        if path.parent.name not in groups:
            properties = fields_of(project.schema, groups)
            yield (
                path.relative_to(project.conf).as_posix(),
                whole(properties | {"defaults": {"type": "array"}, "hydra": {"type": "object"}}, project.schema),
            )


def whole(properties: Schema, owner: type) -> Schema:
    """The schema of a whole file. A file may leave out any key: its defaults list may give the value."""
    return {"$schema": DIALECT, "description": (owner.__doc__ or "").partition("\n")[0], **mapping(properties)}


def mapping(properties: Schema) -> Schema:
    """The schema of a mapping with these keys and no others."""
    return {"type": "object", "properties": properties, "additionalProperties": False}


def fields_of(owner: type, groups: Mapping[str, type[Any]]) -> Schema:
    """The schemas of the fields of a dataclass, by name. groups: those fields that hold an option of a group."""
    found = {}
    for field in dataclasses.fields(owner):
        if base := groups.get(field.name):
            described = {"description": field.metadata.get("help", "")}
            found[field.name] = described | mapping(any_option(list(base.options.values())))
        else:
            allowed = getattr(owner, "scopes", None) if field.name == "scope" else None  # a policy may take fewer
            metadata = {**field.metadata, "choices": allowed} if allowed else field.metadata
            found[field.name] = value_of(field_type(owner, field.name), metadata)
    return found


def any_option(options: list[type]) -> Schema:
    """The keys of all options together; a key with several meanings may have a value of any of them."""
    found: dict[str, list[Schema]] = {}
    for option in options:
        for name, schema in fields_of(option, {}).items():
            kinds = found.setdefault(name, [])
            if schema not in kinds:
                kinds.append(schema)
    return {name: kinds[0] if len(kinds) == 1 else {"anyOf": kinds} for name, kinds in found.items()}


def holds_options(option: type) -> bool:
    """Whether an option has a mapping of other options, which cannot hold it in turn."""
    return any(typing.get_origin(field_type(option, field.name)) is dict for field in dataclasses.fields(option))


def value_of(annotation: Any, metadata: Mapping[str, Any]) -> Schema:
    """The schema of a field's value; an interpolation ${…} may stand for any value."""
    kinds = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
    optional = type(None) in typing.get_args(annotation)
    described = {"description": metadata["help"]} if metadata.get("help") else {}
    base = kinds[0] if optional else annotation
    if isinstance(base, type) and issubclass(base, Checked):
        options = list(base.options.values()) if issubclass(base, Option) and base.options else [base]
        return described | mapping(any_option([option for option in options if not holds_options(option)]))
    if typing.get_origin(base) is dict:
        return described | {"type": "object", "additionalProperties": value_of(typing.get_args(base)[1], {})}
    if typing.get_origin(base) is list:
        (item,) = typing.get_args(base)
        schema: Schema = {"type": "array", "items": value_of(item, {**metadata, "help": ""})}
    else:
        schema = {"type": TYPES[base]}
        if base is float and not metadata.get("infinite"):
            schema["maximum"] = sys.float_info.max
        if choices := metadata.get("choices"):
            schema["enum"] = list(choices)
        schema |= {BOUNDS[name]: bound for name, bound in metadata.get("bounds", {}).items() if bound != float("inf")}
    return described | {"anyOf": [schema, INTERPOLATION, *([{"type": "null"}] if optional else [])]}
