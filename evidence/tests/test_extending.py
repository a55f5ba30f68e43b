"""docs/extending.md in a fresh project: its additions work and keep their contracts; each broken contract is named.

`pytest evidence/tests/test_extending.py -s -n 0 -m slow` prints the answers.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from evidence import checkout
from evidence.checkout import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILE = re.compile(r"`([\w/]+\.(?:py|yaml))`(?:(?!```).)*?:\n\n```(?:python|yaml)\n(.*?)^```", re.DOTALL | re.MULTILINE)
ADDITIONS = dict(FILE.findall(PAGE))
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHONPATH"))}

# A broken contract: the file, what is replaced by what, and the answer.
BROKEN = [
    ("src/trainer/models/residual.py", "return self.last(hidden), None", "return self.last(hidden).double(), None",
     r"model `residual`: forward gave a float64 tensor .*; a 0-d float32 is expected"),
    ("src/trainer/models/residual.py", "return self.last(hidden), None", "return self.last(hidden)",
     r"model `residual`: forward returned a float32 tensor of shape \[4, \d+\]; a tuple of outputs and hidden state"),
    ("src/trainer/data/ring.py", "torch.rand(len(rings), generator=random)", "torch.rand(len(rings))",
     r"data `ring`: it draws from torch's global generator"),
    ("src/trainer/data/ring.py", "start += 1", "start += 2",
     r"data `ring`: batches\(5\) does not start with the sixth batch"),
    ("src/trainer/data/ring.py", "while True:", "while start < 3:",
     r"data `ring`: batches\(0\) ended after 3 batches; an endless iterator is expected"),
    ("src/trainer/config/model/residual.py", '("vectors", "points")', '("image",)',
     r"model `residual`: takes=\('image',\), which no data set yields, so that it cannot be trained"),
    ("src/trainer/optimizers/adagrad.py", "lr=config.lr", "lr=0.1",
     r"optimizer `adagrad`: a parameter group has lr=0\.1; 0\.125 is expected, from the configuration"),
    ("src/trainer/schedules/halving.py", "0.5 ** (step // config.every)", "2.0 ** (step / config.every)",
     r"schedule `halving`: the factor of step 2 of 2 is 1\.0\d+; a float from 0 to 1 is expected"),
    ("src/trainer/policies/rising.py", "return limits, {", "self.rise += 1e-3\n        return limits, {",
     r"clip `rising`: .*(differs after load_state_dict|was changed after)"),
    ("conf/experiment/rings.yaml", "# python train.py experiment=rings", "# rings",
     r"experiment `rings`: line 2 of conf/experiment/rings\.yaml is not: # python train\.py experiment=rings"),
    ("scripts/count_parameters.py", "parser = Parser(", "print(undefined)\n    parser = Parser(",
     r"script `count_parameters`: --help ended with status 1"),
    ("conf/model/residual.yaml", "name: residual", "name: mlp",
     r"model `residual`: conf/model/residual\.yaml has name: mlp; name: residual is expected"),
]  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new project with everything that the page adds."""
    folder = tmp_path_factory.mktemp("extending")
    template = checkout.copy(folder / "template", checkout.files())
    made = folder / "made"
    command = [sys.executable, "scripts/new_project.py", "trainer", "--dir", str(made)]
    subprocess.run(command, cwd=template, env=ENVIRONMENT, check=True)
    for path, content in ADDITIONS.items():
        assert not (made / path).exists(), path
        (made / path).write_text(content, encoding="utf-8")
    return made


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True,
                          check=False)  # fmt: skip


def test_the_page_adds_one_of_each_kind() -> None:
    folders = {str(Path(path).parent) for path in ADDITIONS}
    assert folders >= {
        "src/trainer/models", "src/trainer/data", "src/trainer/optimizers", "src/trainer/schedules",
        "src/trainer/policies", "conf/experiment", "scripts",
    }  # fmt: skip
    assert len(ADDITIONS) == 4 * 3 + 2 + 1 + 1
    for path, old, _, _ in BROKEN:
        assert ADDITIONS[path].count(old) == 1


@pytest.mark.slow
def test_the_additions_are_found_and_keep_their_contracts(project: Path, tmp_path: Path) -> None:
    names = ("contracts", "conf", "options", "models", "data", "optimizers", "schedules")
    files = [*(f"tests/trainer/test_{name}.py" for name in names), "tests/gradclip/test_laws.py"]
    done = run(project, "-m", "pytest", "-p", "no:cacheprovider", *files)
    assert done.returncode == 0, done.stdout[-3000:]
    for tool in (["ruff", "check", "."], ["ruff", "format", "--check", "."]):
        done = run(project, "-m", *tool)
        assert done.returncode == 0, done.stdout
    trained = run(project, "train.py", "experiment=rings", "log.progress=false", f"hydra.run.dir={tmp_path / 'run'}")
    assert trained.returncode == 0, trained.stderr
    counted = run(project, "scripts/count_parameters.py", str(tmp_path / "run"))
    assert int(counted.stdout) == 2 * 64 + 64 + 4 * (64 * 64 + 64) + 64 * 2 + 2
    assert "residual" in run(project, "train.py", "--help").stdout


@pytest.mark.slow
@pytest.mark.parametrize(("path", "old", "new", "answer"), BROKEN, ids=[f"{row[0]} {row[2][:20]}" for row in BROKEN])
def test_a_broken_contract_is_named(project: Path, tmp_path: Path, path: str, old: str, new: str, answer: str) -> None:
    copy = Path(shutil.copytree(project, tmp_path / "copy"))
    text = (copy / path).read_text(encoding="utf-8")
    (copy / path).write_text(text.replace(old, new), encoding="utf-8")
    name = Path(path).stem
    done = run(copy, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "tests/trainer/test_contracts.py", "-k", name)
    found = re.findall(rf"^E\s+(?:AssertionError: )?(\w+ `{name}`: .*)$", done.stdout, re.MULTILINE)
    print(*found, sep="\n")
    assert done.returncode == 1
    assert any(re.match(answer, line) for line in found), done.stdout[-3000:]
