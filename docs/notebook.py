# %% [markdown]
# # Training from Python
#
# A notebook in the percent format: VS Code, PyCharm and Jupyter (with Jupytext) run it cell by cell, and
# `python docs/notebook.py` from top to bottom. It is run from the root of the project.

# %%
import sys

sys.path.insert(0, "src")  # the project is not installed

import trainer
from runner.errors import UserError
from runner.report import read
from trainer.evaluate import evaluate

# %% [markdown]
# `trainer.train` takes the overrides of the command line, and returns how the run ended.
# Each call writes a new folder in `outputs/runs`, with everything that a run on the command line writes.

# %%
line = [
    "model=linear_net",
    "data=line",
    "data.low=-6",
    "data.high=6",
    "data.slope=4",
    "steps=60",
    "log.gradient_norms=false",
]
clipped = trainer.train([*line, "clip=norm", "clip.max=10", "optimizer.lr=0.02"])
print(clipped.state, clipped.objective, clipped.folder)

# %% [markdown]
# The metrics are the lines of `metrics.jsonl`: the norms before and after clipping of the first steps.

# %%
for scalars in clipped.metrics[:5]:
    print({name: round(scalars[name], 3) for name in ("step", "loss/train", "grad_norm/before", "grad_norm/after")})

# %% [markdown]
# A divergence is a result, too. Its post-mortem says what to run instead. A mistake in an override is an exception.

# %%
unclipped = trainer.train([*line, "clip=none", "optimizer.lr=0.1"])
print(unclipped.state, unclipped.reason)

try:
    trainer.train(["clip.maximum=1"])
except UserError as error:
    print(error)

# %% [markdown]
# `read` gives columns of equal length, for a plot or for `pandas.DataFrame` (`pip install -e ".[pandas]"`).

# %%
columns = read(clipped.folder)
norms = list(zip(columns["step"], columns["grad_norm/before"], columns["grad_norm/after"], strict=True))
print(len(norms), "steps; the last:", norms[-1])

# %% [markdown]
# `trainer.load` gives the configuration, the model with its best weights, and the data.

# %%
state = trainer.load(clipped.folder)
loss, metrics = evaluate(state)
print(f"step {state.step}: loss {loss:.4g}")
print({name: parameter.tolist() for name, parameter in state.model.named_parameters()})
