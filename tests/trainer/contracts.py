"""What the training loop expects of each kind of option, as checks that return problems in words for its author.

Each function takes the name of an option and returns its problems, an empty list if it has none.
"""

import copy
import math
import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from gradclip import ClipCheckError, Clipper
from gradclip.fields import Option
from gradclip.policies import Policy
from runner.errors import UserError
from tests import programs
from tests.trainer.options import option, option_names
from trainer import data, models, optimizers, schedules
from trainer.config.data import Data
from trainer.config.model import Model
from trainer.project import PROJECT, compose

Problems = Iterator[str]
ROWS = 4
SCALAR = "a 0-d float32 is expected"


def described(value: object) -> str:
    """A value in the words of a message: the type and shape of a tensor, the type of anything else."""
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {list(value.shape)}"
    return f"{value!r}" if isinstance(value, (int, float, str)) else f"an object of type {type(value).__name__}"


def problems(check: Callable[[str], Problems], group: str, name: str) -> list[str]:
    """The problems that a check finds, each after the option's name. An exception of the option's code is one, too."""
    found = []
    try:
        for problem in check(name):
            found.append(f"{group} `{name}`: {problem}")
    except Exception as error:
        if isinstance(error, UserError) and "pip install" in str(error):
            return []  # it needs a package that is not installed
        found.append(f"{group} `{name}`: {type(error).__name__}: {error}")
    return found


# -- models


def model_problems(name: str) -> Problems:
    takes = Model.options[name].takes
    kinds = sorted({schema.kind for schema in Data.options.values()})
    if not takes:
        yield "its schema names no kind of data in `takes`"
    elif isinstance(takes, str):
        yield f"takes={takes!r} is text; a tuple is expected, ({takes!r},)"
        return
    elif not set(takes) & set(kinds):
        yield f"takes={takes}, which no data set yields, so that it cannot be trained; there are {', '.join(kinds)}"
    for dataset in option_names("data"):
        if Data.options[dataset].kind in takes:
            yield from model_on_data(name, dataset)


def model_on_data(name: str, dataset: str) -> Problems:
    """The problems of a model with a data set that it takes."""
    built = data.build(option("data", dataset, batch_size=ROWS), seed=1)

    def build() -> Any:
        torch.manual_seed(0)
        return models.build(option("model", name), built.inputs, built.outputs, Data.options[dataset].kind)

    model, batch = build(), next(built.batches(0))
    if not isinstance(model, nn.Module):
        yield f"build() returned {described(model)}; a torch.nn.Module is expected"
        return
    returned = model.eval()(batch.inputs, None)
    if not isinstance(returned, tuple) or len(returned) != 2:
        yield f"forward returned {described(returned)}; a tuple of outputs and hidden state is expected"
        return
    if not isinstance(returned[0], Tensor) or returned[0].shape[-1:] != (built.outputs,):
        yield (
            f"forward returned the outputs {described(returned[0])}; a last dimension of {built.outputs}, the number "
            f"of outputs of data={dataset}, is expected"
        )
        return
    loss = built.loss(returned[0], batch.targets)
    if not isinstance(loss, Tensor):
        yield f"the loss of data={dataset} is {described(loss)}; {SCALAR}"
        return
    for key, value in built.metrics(returned[0], batch.targets).items():
        if not isinstance(value, Tensor) or value.shape != ():
            yield f"the metric {key} of data={dataset} is {described(value)}; a 0-d tensor is expected"
    if loss.shape != () or loss.dtype != torch.float32:
        yield f"forward gave {described(returned[0])}, and data={dataset} the loss {described(loss)}; {SCALAR}"
        return
    if not math.isfinite(loss.item()):
        yield f"the first loss on data={dataset} is {loss.item()}; a finite one is expected"
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    if not any(bool(gradient.any()) for gradient in gradients.values()):
        yield f"no parameter got a gradient on data={dataset}; one that is not zero is expected"
    for key, gradient in gradients.items():
        if not bool(gradient.isfinite().all()):
            yield f"the first gradient of {key} on data={dataset} is not finite"
    with torch.no_grad():
        first, rest = (built.loss(model(batch.inputs[rows], None)[0], batch.targets[rows])
                       for rows in (slice(0, 1), slice(1, None)))  # fmt: skip
    mean = (first + (ROWS - 1) * rest) / ROWS
    if not torch.allclose(mean, loss, rtol=1e-4, atol=1e-6):
        yield (
            f"the loss of {ROWS} rows on data={dataset} is {loss.item():.6g}, and the mean of the rows' losses "
            f"{mean.item():.6g}; a row's output may depend on that row alone, and the loss is a mean over rows"
        )
    one, other = build().state_dict(), build().state_dict()
    if any(not torch.equal(one[key], other[key]) for key in one):
        yield "the same seed gave other weights; draw them from torch's global generator"


# -- data sets


def data_problems(name: str) -> Problems:
    schema = Data.options[name]
    if not schema.kind:
        yield "its schema has no `kind`, by which models name what they take"
    state = torch.get_rng_state()
    dataset = data.build(option("data", name, batch_size=ROWS), seed=1)
    batches, again = (list(islice(data.build(option("data", name, batch_size=ROWS), seed=1).batches(start), 10 - start))
                      for start in (0, 5))  # fmt: skip
    held_out = [list(dataset.validation()) for _ in range(2)]
    if not torch.equal(state, torch.get_rng_state()):
        yield "it draws from torch's global generator; use a torch.Generator with the seed that build() is given"
    if len(batches) < 10:
        yield f"batches(0) ended after {len(batches)} batches; an endless iterator is expected"
        return
    for key, value in dataset.facts.items():
        if not isinstance(value, str):
            yield f"facts[{key!r}] is {described(value)}; text is expected"
    for batch in [*batches[:1], *held_out[0][:1]]:
        if not isinstance(batch, data.Batch):
            yield f"it yields {described(batch)}; a Batch is expected"
            return
    if batches[0].inputs.is_floating_point() and batches[0].inputs.dtype != torch.float32:
        yield f"its inputs are {described(batches[0].inputs)}; float32, or an integer type, is expected"
    if not (len(batches[0].inputs) == len(batches[0].targets) == ROWS):
        yield (
            f"a batch has {len(batches[0].inputs)} rows of inputs and {len(batches[0].targets)} of targets; "
            f"data.batch_size={ROWS} of each are expected"
        )
    if any(not same(one, other) for one, other in zip(batches[5:], again, strict=True)):
        yield "batches(5) does not start with the sixth batch of batches(0); a batch may depend on seed and step alone"
    if not held_out[0]:
        yield "validation() yields nothing"
    elif len(held_out[0]) != len(held_out[1]) or any(map(lambda a, b: not same(a, b), *held_out)):
        yield "validation() yields other data the second time"


def same(one: data.Batch, other: data.Batch) -> bool:
    return torch.equal(one.inputs, other.inputs) and torch.equal(one.targets, other.targets)


# -- optimizers


def optimizer_problems(name: str) -> Problems:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    values = {"lr": 0.125, "weight_decay": 0.25, "no_decay": ["*bias"]}
    optimizer = optimizers.build(option("optimizer", name, **values), model)
    if not isinstance(optimizer, torch.optim.Optimizer):
        yield f"build() returned {described(optimizer)}; a torch.optim.Optimizer is expected"
        return
    for group, decay in zip(optimizer.param_groups, (0.25, 0.0), strict=False):
        for key, expected in (("lr", 0.125), ("weight_decay", decay)):
            if group.get(key) != expected:
                yield f"a parameter group has {key}={group.get(key)}; {expected} is expected, from the configuration"
    before = [parameter.clone() for parameter in model.parameters()]
    step(model, optimizer, 0)
    if all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True)):
        yield "a step changed no parameter"
    for number in range(1, 4):
        step(model, optimizer, number)
    state = copy.deepcopy(optimizer.state_dict())
    weights = copy.deepcopy(model.state_dict())
    resumed = optimizers.build(option("optimizer", name, **values), model)
    optimizers.load_state(resumed, state)
    ends = []
    for each in (optimizer, resumed):
        model.load_state_dict(weights)
        for number in range(4, 8):
            step(model, each, number)
        ends.append([parameter.clone() for parameter in model.parameters()])
    if any(not torch.equal(one, other) for one, other in zip(*ends, strict=True)):
        yield "its state_dict() does not hold all that the next step depends on: a resumed run would differ"


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    """A step whose gradient differs from that of the step before, in its sign as well."""
    model.zero_grad()
    inputs = torch.randn(2, 3, generator=torch.Generator().manual_seed(number))
    (10 ** (number % 3) * model(inputs).sum()).backward()
    optimizer.step()


# -- schedules


def schedule_problems(name: str) -> Problems:
    for steps in (1, 2, 50):
        factor = schedules.build(option("schedule", name, warmup=0), steps)
        for number in range(1, steps + 1):
            value: Any = factor(number)
            if not isinstance(value, float) or not 0 <= value <= 1:
                yield f"the factor of step {number} of {steps} is {described(value)}; a float from 0 to 1 is expected"
                return
        if factor(1) != 1.0:
            yield f"the first factor of {steps} steps is {factor(1)}; 1.0 is expected, the full optimizer.lr"
        if [factor(number) for number in range(1, steps + 1)] != [factor(number) for number in range(1, steps + 1)]:
            yield "the factor of a step changes when it is asked again; it may depend on the step alone"


# -- clipping policies


def policy_problems(name: str) -> Problems:
    policy = compose(f"clip={name}").clip
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper, resumed = (Clipper(model, policy, optimizer=optimizer) for _ in range(2))
    for number in range(12):
        model.zero_grad()
        (10 ** (number % 3) * model(torch.randn(4, 6)).square().sum()).backward()
        before = gradients(model)
        resumed.load_state_dict(clipper.state_dict())
        clipper.clip()
        try:
            clipper.check()
        except ClipCheckError as error:
            yield f"a clipped gradient exceeds its limit: {error}"
            return
        after = gradients(model)
        for parameter, gradient in zip(model.parameters(), before, strict=True):
            parameter.grad = gradient
        resumed.clip()
        if any(not torch.equal(one, other) for one, other in zip(after, gradients(model), strict=True)):
            yield f"clip {number + 1} differs after load_state_dict(): limits() may depend on its memory alone"
            return


def gradients(model: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def option_problems(group: str, name: str) -> Problems:
    """What holds for the options of every group: the schema and the values."""
    schema: type[Option] = (Policy if group == "clip" else PROJECT.groups[group]).options[name]
    path = PROJECT.conf / group / f"{name}.yaml"
    if not path.is_file():
        yield f"conf/{group}/{name}.yaml is missing"
        return
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(given, dict):
        yield f"conf/{group}/{name}.yaml has no keys; `defaults` and `name` are expected"
        return
    if f"/schema/{group}/{name}@_here_" not in map(str, given.get("defaults", [])):
        yield f"the defaults of conf/{group}/{name}.yaml lack /schema/{group}/{name}@_here_"
        return
    if given.get("name") != name:
        yield f"conf/{group}/{name}.yaml has name: {given.get('name')}; name: {name} is expected"
    elif group != "clip":
        option(group, name)  # raises for a value that is out of range or missing
    if not issubclass(schema, PROJECT.groups[group]):
        yield f"its schema {schema.__name__} is no {PROJECT.groups[group].__name__}"


# -- experiments and scripts


def experiment_problems(name: str) -> Problems:
    lines = (PROJECT.conf / "experiment" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    for number, expected in enumerate(["# @package _global_", f"# python train.py experiment={name}"]):
        if len(lines) <= number or lines[number] != expected:
            yield f"line {number + 1} of conf/experiment/{name}.yaml is not: {expected}"
    if len(lines) < 3 or not re.match(r"# .+\.$", lines[2]):
        yield f"line 3 of conf/experiment/{name}.yaml is not a comment with a sentence that says what it shows"
    compose(f"experiment={name}")


def script_problems(name: str) -> Problems:
    path = PROJECT.root / "scripts" / f"{name}.py"
    if not path.read_text(encoding="utf-8").startswith('"""'):
        yield "it does not begin with a docstring that says what it does"
    for arguments, status in (["--help"], 0), (["--no-such-option"], 2):
        done = programs.run(path, *arguments, cwd=PROJECT.root)
        if done.returncode != status:
            yield f"{' '.join(arguments)} ended with status {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"
        elif status == 2 and "Traceback" in done.stderr:
            yield f"{' '.join(arguments)} printed a traceback; one line is expected"
