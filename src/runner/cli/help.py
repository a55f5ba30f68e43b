"""The text of `--help`: the groups of options, and every key with its value and its help from the schema."""

import dataclasses
from typing import Any

from omegaconf import DictConfig

from gradclip.errors import format_value
from gradclip.fields import allowed
from runner.compose import Composer, schema_of

USAGE = """\
Trains a model with clipped gradients, and shows their norms before and after clipping.

  python train.py [group=option] [key=value] …             one run
  python train.py -m clip=none,norm clip.max=0.5,1 …       a sweep: a run for every combination
  python train.py -m sweep.method=optuna 'clip.max=tag(log,interval(0.1,10))'   a search
  python train.py resume=RUN [key=value] …                 resume an earlier run
  python train.py sweep.resume=SWEEP                       run the unfinished jobs of a sweep
  python train.py [group=option] --help                    the keys of other options
  python train.py … --cfg job                              the configuration; nothing is run
  eval "$(python train.py -sc install=bash)"               tab completion (zsh, fish: see --hydra-help)
"""


def help_text(composer: Composer[Any], config: DictConfig) -> str:
    """The help for a composed configuration: the chosen options in brackets, and every key with its value."""
    chosen = config.hydra.runtime.choices
    groups = [
        f"  {group:<12}" + "  ".join(f"[{option}]" if option == chosen.get(group) else option for option in options)
        for group, options in composer.options().items()
    ]
    keys = _rows(config)
    width = min(max(len(left) for left, _ in keys), 36)
    lines = [f"  {left:<{width}}  {text}" for left, text in keys]
    return "\n".join([USAGE, "groups, the chosen option in brackets", *groups, "", "keys", *lines])


def _rows(node: DictConfig, path: str = "") -> list[tuple[str, str]]:
    """The pairs of `key=value` and help for a node and the nodes below it, the node's own keys first."""
    owner = schema_of(node)
    assert owner is not None
    values, nested = [], []
    for field in dataclasses.fields(owner):
        if field.name == "name":
            continue
        value, key = node[field.name], f"{path}{field.name}"
        if isinstance(value, DictConfig) and schema_of(value):
            nested += _rows(value, f"{key}.")
        else:
            values.append((f"{key}={format_value(value)}", f"{field.metadata['help']} ({allowed(owner, field.name)})"))
    return values + nested
