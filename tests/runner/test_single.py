"""A run is started from what was composed to be checked: it is the one that plain hydra.main would start."""

from pathlib import Path

from tests.runner.support import COUNTER, program
from tests.runner.toy.toy import PROJECT

PLAIN = f"""
import sys
sys.path.insert(0, {str(PROJECT.root.parents[2])!r})
import hydra
from runner.compose import register
from tests.runner.toy.toy import PROJECT

@hydra.main(version_base="1.3", config_path={str(PROJECT.conf)!r}, config_name="train")
def main(config):
    pass

register(PROJECT)
main()
"""


def test_a_run_is_hydras_own(tmp_path: Path) -> None:
    """The files that describe it are the same, byte for byte."""
    (tmp_path / "conf" / "clip").mkdir(parents=True)
    (tmp_path / "conf" / "clip" / "tight.yaml").write_text("defaults: [norm, _self_]\nmax: 1.0e-3\n")
    (tmp_path / "train.py").write_text(PLAIN)
    arguments = ["--config-dir", str(tmp_path / "conf"), "schedule=linear", "clip=tight", "target=2",
                 "hydra.run.dir=run", "hydra.verbose=[hydra]", "+hydra.job.env_set.TRIED=yes",
                 "hydra.job.env_copy=[HOME]"]  # fmt: skip
    found = []
    for script in (COUNTER, tmp_path / "train.py"):
        done = program(*arguments, cwd=tmp_path, script=script)
        assert done.returncode == 0, done.stderr
        found.append({path.name: path.read_text() for path in (tmp_path / "run" / ".hydra").iterdir()})
    ours, plain = found
    assert ours.keys() == {"config.yaml", "hydra.yaml", "overrides.yaml"}
    assert ours == plain
    assert "INFO" in (tmp_path / "run" / "train.log").read_text()
