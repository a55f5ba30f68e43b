"""Runs the counter: `python train.py steps=9`."""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

sys.path.insert(0, str(Path(__file__).parents[3]))
sys.path.insert(0, str(Path(__file__).parents[3] / "src"))

from runner.cli.preflight import preflight
from runner.cli.run import run
from tests.runner.counter.counter import PROJECT


@hydra.main(version_base="1.3", config_path="../toy/conf", config_name="train")
def main(config: DictConfig) -> None:
    run(PROJECT, config)


if __name__ == "__main__":
    preflight(PROJECT)  # handles user errors, --help, resume=… and -m; returns for a single new run
    main()
