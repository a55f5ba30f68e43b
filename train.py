"""Trains the model that conf/ describes: `python train.py clip=norm clip.max=1.0`; `--help` lists all settings."""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

sys.path.insert(0, str(Path(__file__).parent / "src"))  # this checkout, whatever else is installed

from runner.cli.preflight import preflight
from runner.cli.run import run
from trainer.project import PROJECT


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> None:
    run(PROJECT, config)


if __name__ == "__main__":
    preflight(PROJECT)  # handles user errors, --help, resume=… and -m; returns for a single new run
    main()
