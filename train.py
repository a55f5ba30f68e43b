"""Trains what conf/ describes: `python train.py clip=norm clip.max=1.0`, and `--help` for the rest."""

import hydra
from omegaconf import DictConfig

from trainer import cli


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> None:
    cli.run(config)


if __name__ == "__main__":
    if checked := cli.preflight():  # a mistake ends here, in one line
        cli.start(checked, main)
    else:
        main()
