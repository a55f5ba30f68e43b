"""What a run's configuration says about its clipping and its optimizer, read as plain data, and without torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gradclip.policies import Policy
from runner.runs.run import CONFIG_FILE

# A key of an optimizer that divides the gradient by a running mean of its size: Adam's, or RMSProp's, decay of it.
DECAYS = ("beta2", "alpha")


@dataclass(frozen=True)
class Settings:
    """The values of `clip` and `optimizer` in a run's configuration; empty where it has none."""

    clip: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Mapping[str, Any] = field(default_factory=dict)

    @property
    def policy(self) -> str | None:
        """The name of the clipping policy."""
        return self.clip.get("name")

    @property
    def schema(self) -> type[Policy] | None:
        """The policy's class; None for a policy of a project that is not imported."""
        return Policy.options.get(str(self.policy))

    @property
    def kind(self) -> str:
        """What the policy does, as in `Policy.kind`."""
        return "limit" if self.schema is None else self.schema.kind

    @property
    def scope(self) -> str:
        """What the policy measures together."""
        return str(self.clip.get("scope", "model"))

    @property
    def other_limit(self) -> str | None:
        """What the limit is of, in words; None if it is of the norm of all gradients, `grad_norm/before`."""
        if self.kind == "elementwise":
            return "per element"
        if self.kind == "composite":
            return "of each link"
        if self.scope != "model":
            return f"per {self.scope}"
        if (norm_type := float(self.clip.get("norm_type") or 2.0)) != 2:
            return f"of the {norm_type:g}-norm"
        return "of some parameters" if self.clip.get("include") or self.clip.get("exclude") else None

    @property
    def sets_own_limit(self) -> bool:
        """Whether the policy sets its limit by itself, so that `clip.max` is only a cap on it."""
        return "max" in self.clip and bool(getattr(self.schema, "max_is_cap", True))

    @property
    def normalizes(self) -> bool:
        """Whether the optimizer divides the gradient by its own size, as Adam, AdamW and RMSProp do."""
        return any(key in self.optimizer for key in DECAYS)

    @property
    def momentum(self) -> float:
        """The optimizer's momentum; 0 if it has none."""
        return float(self.optimizer.get("momentum") or 0.0)

    @property
    def lr(self) -> float | None:
        """The learning rate before its schedule; None if the configuration has none."""
        return None if (value := self.optimizer.get("lr")) is None else float(value)


def settings_of(config: Mapping[str, Any]) -> Settings:
    """The settings in a configuration, as nested plain data."""
    clip, optimizer = (config.get(name) for name in ("clip", "optimizer"))
    return Settings(*(each if isinstance(each, Mapping) else {} for each in (clip, optimizer)))


def settings_of_values(values: Mapping[str, Any]) -> Settings:
    """The settings in a configuration by dotted key."""
    parts = [(*key.partition(".")[::2], value) for key, value in values.items()]
    return Settings(*({key: value for group, key, value in parts if group == name} for name in ("clip", "optimizer")))


def read_settings(run: Path) -> Settings:
    """The settings in a run's config.yaml; empty without one."""
    path = run / CONFIG_FILE
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    return settings_of(content if isinstance(content, dict) else {})
