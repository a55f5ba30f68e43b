"""A single run, started as hydra.main starts one, but from the configuration that was composed to be checked.

hydra.main would compose it twice more: to read hydra.mode, and to run.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hydra._internal.hydra import Hydra
from hydra._internal.utils import run_and_report
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig

from runner.compose import Composer


@dataclass(frozen=True)
class Single:
    """A run that was checked. config: all that was composed, Hydra's own node included; task: the program's name."""

    composer: Composer[Any]
    config: DictConfig
    overrides: list[str]
    task: str


def start(single: Single, main: Callable[..., Any]) -> None:
    """Makes the folder, sets up the log, and calls what `@hydra.main` decorates, all by Hydra's own code."""
    config, loader, overrides = single.config, single.composer.loader, list(single.overrides)
    if config.hydra.mode is None:
        config.hydra.mode = RunMode.RUN
        config.hydra.overrides.hydra.append("hydra.mode=RUN")  # so says hydra.main
        overrides.append("hydra.mode=RUN")

    def give_once(**asked: Any) -> DictConfig:
        del loader.load_configuration  # asked again, as for hydra.verbose, it composes
        return config

    loader.load_configuration = give_once  # type: ignore[method-assign, assignment]
    hydra = Hydra(single.task, loader)
    GlobalHydra.instance().initialize(hydra)
    try:
        run_and_report(lambda: hydra.run(single.composer.name, inspect.unwrap(main), overrides))
    finally:
        GlobalHydra.instance().clear()
