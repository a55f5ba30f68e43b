"""Random overrides of the whole schema, checked and built in one process."""

import contextlib
import dataclasses
import io
import random
import typing
import warnings
from pathlib import Path

import torch

from evidence.faults import Tally
from gradclip.fields import Checked, field_type
from runner.cli.preflight import preflight
from runner.errors import one_line_errors
from tests.trainer.support import text_file
from trainer import data, models
from trainer.config import Train
from trainer.project import PROJECT, compose
from trainer.state import build

UNUSUAL = [
    "nan", "inf", "-inf", "1e400", "-1", "0", "1", "2", "3.7", "1e-320", "99999999999999999999", "1e18", "true", "null",
    "", "abc", "[]", "[1,2]", "[nan]", "[null]", "{a:1}", "{}", "'quoted'", "é", "'é\U0001f600'", "a b", "${steps}",
    "${nope}", "${oc.env:HOME}", "${clip.max}", "${", "1,2", "choice(1,2)", "range(1,9)", "*", "[*bias*]", "(", "~",
    "0x10", "1_000", "-0.0", "???", "\\", "\t", "5" * 400, "[" * 50, "a=b", "@", "%s", "!!python/object:os.system",
]  # fmt: skip
PREFIXES = ["", *[""] * 25, "+", "++", "~"]
MALFORMED = [
    "", "=", "==", "x", "model=", "=norm", "clip@", "clip@clip", "hydra=1", "hydra.run.dir=.", "hydra.nope=1",
    "hydra/launcher=x", "hydra.sweep.dir=x", "+hydra.x=1", "~hydra", "defaults=1", "+defaults=[a]", "~model",
    "resume=nope", "resume=", "resume=[1]", "resume={a:1}", "init_from=nope", "init_from=[]", "_target_=os.system",
    "+_target_=os.system", "experiment=digits", "experiment=null", "debug=anomaly", "debug=fast,anomaly",
    "clip@a.b=norm", "+clip@x=norm", "clip.links={}", "+clip.links.a=3", "model={name:rnn}", "clip.name=norm", "0=1",
    "1.2=3", "a.b.c.d=1", "log={every:3}", "log.every={}", "seed=${seed}", "steps=${steps}", "clip=${clip}",
    "model=${model}",
]  # fmt: skip
BASES: list[dict[str, str]] = [
    {}, {}, {"model": "lstm"}, {"data": "digits", "model": "mlp"}, {"data": "digits"}, {"data": "line", "model": "mlp"},
    {"data": "line", "model": "linear_net"},
]  # fmt: skip
DEFAULT = {"model": "rnn", "data": "text", "optimizer": "sgd", "schedule": "constant", "device": "auto", "clip": "norm"}
LARGEST = 20_000_000  # elements of the largest model that is built


def keys(options: dict[str, str]) -> list[tuple[str, type[Checked], str]]:
    """Every dotted key of these options, with its schema and field name."""
    found: list[tuple[str, type[Checked], str]] = [(each.name, Train, each.name) for each in dataclasses.fields(Train)]
    for field in dataclasses.fields(Train):
        kind = (
            PROJECT.groups[field.name].options[options[field.name]]
            if field.name in PROJECT.groups
            else field_type(Train, field.name)
        )
        if isinstance(kind, type) and issubclass(kind, Checked):
            found += [(f"{field.name}.{inner.name}", kind, inner.name) for inner in dataclasses.fields(kind)]
    return found


def plausible(owner: type[Checked], name: str, chance: random.Random) -> str:
    """A random value of about the right type, often at a bound of its range."""
    (field,) = (each for each in dataclasses.fields(owner) if each.name == name)
    bounds, kind = field.metadata.get("bounds", {}), field_type(owner, name)
    if choices := field.metadata.get("choices"):
        return str(chance.choice(choices))
    kinds = [each for each in (*typing.get_args(kind), kind) if each in (int, float, bool, str)]
    if bool in kinds:
        return chance.choice(["true", "false"])
    if int in kinds or float in kinds:
        ends = [str(bound) for bound in bounds.values()]
        values = [*ends, *ends, str(chance.randrange(1, 40)), str(10 ** chance.randrange(0, 14))]
        values += [f"{chance.uniform(0, 2):.3g}", f"{10 ** chance.uniform(-40, 40):.3g}"] if float in kinds else []
        value = chance.choice(values)
        return f"[{value}]" if typing.get_origin(kind) is list else value
    return chance.choice(UNUSUAL)


def command_line(chance: random.Random) -> list[str]:
    """Options, mostly compatible ones, and one to four random overrides of their keys."""
    options = dict(chance.choice(BASES))
    for group in ("clip", "optimizer", "schedule"):
        if chance.random() < 0.5:
            options[group] = chance.choice(list(PROJECT.groups[group].options))
    line = [f"{group}={option}" for group, option in options.items()]
    found = keys(DEFAULT | options)
    return line + [override(found, chance) for _ in range(chance.randrange(1, 5))]


def override(found: list[tuple[str, type[Checked], str]], chance: random.Random) -> str:
    """One random override: a key with a plausible or an unusual value, an option, or a malformed argument."""
    sort = chance.random()
    if sort < 0.05:
        group = chance.choice(list(PROJECT.groups))
        return f"{group}={chance.choice([*PROJECT.groups[group].options] * 3 + UNUSUAL)}"
    if sort < 0.1:
        return chance.choice(MALFORMED)
    key, owner, name = chance.choice([each for each in found if each[2] != "name"])
    if chance.random() < 0.03:
        index = chance.randrange(len(key) + 1)
        key = key[:index] + chance.choice([*"abcxyz._-@é/", ""]) + key[index + 1 :]
    value = plausible(owner, name, chance) if chance.random() < 0.85 else chance.choice(UNUSUAL)
    prefix = chance.choice(PREFIXES)
    return f"~{key}" if prefix == "~" and chance.random() < 0.5 else f"{prefix}{key}={value}"


def fuzzed(folder: Path, count: int, seed: int = 0) -> Tally:
    """Tries `count` random command lines, and builds what is accepted."""
    tally = Tally("random overrides of the whole schema", "composes and builds, or one line and status 2; no traceback")
    text = text_file(folder)
    with contextlib.chdir(folder):
        for number in range(count):
            arguments = command_line(random.Random(f"{seed} {number}"))
            if "data=" not in str(arguments):  # the default text is large, and would be read for every command line
                arguments = [f"data.path={text}", "data.batch_size=4", *arguments]
            outcome, what = one(arguments)
            tally.count(outcome != "traceback", f"{number} {arguments}: {what}")
            tally.notes[outcome] += 1
    return tally


def one(arguments: list[str]) -> tuple[str, str]:
    """The outcome of a command line, built, refused or traceback, and what was wrong."""
    out, error = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(error), contextlib.redirect_stdout(out), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            preflight(PROJECT, ["train.py", *arguments])
            with one_line_errors(PROJECT, arguments):
                return built(compose(*arguments)), ""
    except SystemExit as end:
        line = error.getvalue()
        if end.code == 2 and line.startswith("error: ") and line.count("\n") == 1:
            return "refused", ""
        return "traceback", f"{end.code}: {line}"
    except BaseException as other:
        return "traceback", f"{type(other).__name__}: {other}"


def built(config: Train) -> str:
    """Builds a configuration, unless its model is too large for a test; returns the outcome."""
    if size(config) > LARGEST:
        return "composed; too large to be built here"
    try:
        build(config)
    finally:
        torch.set_num_threads(1)  # device.threads may have changed it
    return "built"


def size(config: Train) -> int:
    """The number of elements of a configuration's model, which is built on the meta device."""
    dataset = data.build(config.data, config.seed)
    with torch.device("meta"):
        model = models.build(config.model, dataset.inputs, dataset.outputs, config.data.kind)
    return sum(parameter.numel() for parameter in model.parameters())
