"""A run is started from what was composed to be checked: the one that plain hydra.main would start, and no slower."""

import gc
import json
import subprocess
import sys
from pathlib import Path

import pytest

from runner.cli.preflight import CONF
from tests.support import ROOT
from tests.trainer.support import SMALL, text_file
from trainer import imports

# What a run that trains, evaluates and saves has no use for; each takes a tenth of a second and more to import.
NEEDLESS = {"torch._dynamo", "torch._inductor", "torch.distributed.tensor", "torch.utils.benchmark", "sympy", "scipy",
            "sklearn", "pandas", "matplotlib", "tensorflow", "optuna", "safetensors", "joblib", "submitit"}  # fmt: skip
PLAIN = f"""
import hydra
from runner.cli import preflight as cli

@hydra.main(version_base="1.3", config_path={str(CONF)!r}, config_name="train")
def main(config):
    pass

main()
"""
MODULES = """
import json, runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print(json.dumps(sorted(sys.modules)))
"""


def python(*arguments: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_run_is_hydras_own_and_imports_nothing_it_has_no_use_for(tmp_path: Path) -> None:
    (tmp_path / "conf" / "clip").mkdir(parents=True)
    (tmp_path / "conf" / "clip" / "tight.yaml").write_text("defaults: [norm, _self_]\nmax: 1.0e-3\n")
    (tmp_path / "train.py").write_text(PLAIN)
    arguments = ["--config-dir", str(tmp_path / "conf"), "optimizer=adamw", "clip=tight", *SMALL, "steps=2",
                 f"data.path={text_file(tmp_path)}", "data.sample=9", "log.histograms=true", "hydra.run.dir=run",
                 "hydra.verbose=[hydra]", "+hydra.job.env_set.TRIED=yes", "hydra.job.env_copy=[HOME]"]  # fmt: skip
    printed = python("-c", MODULES, str(ROOT / "train.py"), *arguments, cwd=tmp_path)
    loaded = set(json.loads(printed.splitlines()[-1]))
    assert loaded & NEEDLESS == set()
    assert {"torch.nn", "tensorboard", "hydra"} <= loaded

    ours = {path.name: path.read_text() for path in Path(tmp_path, "run", ".hydra").iterdir()}
    log = Path(tmp_path, "run", "train.log").read_text()
    assert "INFO data:" in log
    python(str(tmp_path / "train.py"), *arguments, cwd=tmp_path)
    plain = {path.name: path.read_text() for path in Path(tmp_path, "run", ".hydra").iterdir()}
    assert plain.keys() == ours.keys() == {"config.yaml", "hydra.yaml", "overrides.yaml"}
    for name, text in plain.items():
        assert ours[name] == text


def test_the_garbage_collector_is_off_for_the_import_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    class Finder:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "torch":
                seen.append(gc.isenabled())
                raise ImportError("as if it were not installed")

    monkeypatch.setattr(gc, "freeze", lambda: seen.append(gc.isenabled()))
    imports.bring_torch()
    assert seen == []  # it is there already
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(ImportError):
        imports.bring_torch()
    assert seen == [False, False]
    assert gc.isenabled()
