"""Options as their own YAML file gives them, without a whole configuration: it may name other options."""

from typing import Any

import yaml

from trainer.project import PROJECT


def names(group: str) -> list[str]:
    """The options of a group, which its folder lists."""
    return sorted(PROJECT.groups[group].options)


def option(group: str, name: str, **values: Any) -> Any:
    """The option that conf/<group>/<name>.yaml gives, with other values for some keys."""
    given = yaml.safe_load((PROJECT.conf / group / f"{name}.yaml").read_text(encoding="utf-8"))
    del given["defaults"]
    return PROJECT.groups[group].options[name](**given | values)
