"""Runs the toy: `python train.py clip=norm clip.max=0.5`. The same lines as in the train.py of the template."""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

sys.path.insert(0, str(Path(__file__).parents[3]))  # the toy is the package tests.runner.toy
sys.path.insert(0, str(Path(__file__).parents[3] / "src"))  # the template's packages

from runner.cli.preflight import preflight
from runner.cli.run import run
from tests.runner.toy.toy import PROJECT


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> None:
    run(PROJECT, config)


if __name__ == "__main__":
    preflight(PROJECT)  # handles user errors, --help, resume=… and -m; returns for a single new run
    main()
