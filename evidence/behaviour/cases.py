"""The commands whose observable behaviour evidence/contract.py compares. Every case runs in a new folder."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Files in every case's folder before its first command.
INPUTS: Mapping[str, bytes] = {
    "small.txt": b"a gradient is a product of factors; clip it, then step.\n" * 80,
    "short.txt": b"too short",
    "binary.dat": b"\xff\xfe\x00",
    "more/experiment/launcher.yaml": b"# @package _global_\ndefaults: [override /hydra/launcher: joblib]\n",
    "more/experiment/sweeper.yaml": b"# @package _global_\ndefaults: [override /hydra/sweeper: optuna]\n",
    "more/experiment/grid.yaml": b"# @package _global_\nhydra:\n  sweeper:\n    params:\n      seed: 1,2\n",
    "more/experiment/typo.yaml": b"# @package _global_\ndefaults: [override /clip: nrom]\n",
}
STEPS = "steps=6 evaluate_every=3 checkpoint.every=3"
DATA = "data.batch_size=4 data.window=16 data.sample=0 data.path=small.txt"
SIZES = "model.hidden=8 model.embedding=4"
TEXT = f"{SIZES} {DATA}"
TINY = f"{TEXT} {STEPS}"
LINE = f"model=linear_net data=line optimizer.lr=0.01 {STEPS}"
DEEP = f"model=deep_linear data=direction optimizer.lr=0.003 {STEPS}"
DIGITS = f"model=mlp data=digits model.hidden=[8] optimizer.lr=0.1 {STEPS}"
LONG = f"{TEXT} steps=600 evaluate_every=100 checkpoint.every=20"  # long enough to be interrupted

GROUPS = ("model", "data", "optimizer", "schedule", "device", "clip", "debug", "experiment")
# The overrides beside each option; TINY for all others.
PARTNERS: Mapping[str, str] = {
    "model=linear_net": LINE,
    "model=deep_linear": DEEP,
    "model=mlp": DIGITS,
    "data=line": LINE,
    "data=direction": DEEP,
    "data=digits": DIGITS,
    "data=temporal_order": f"{SIZES} data.batch_size=4 data.length=10 data.validation=20 {STEPS}",
    "optimizer=rmsprop": f"{TINY} optimizer.momentum=0.5",
    "optimizer=sgd": f"{TINY} optimizer.lr=0.3 optimizer.momentum=0.9 optimizer.nesterov=true",
    "schedule=constant": f"{TINY} schedule.warmup=2",
    "schedule=cosine": f"{TINY} schedule.warmup=2",
    "schedule=linear": f"{TINY} schedule.warmup=2",
    "debug=fast": TEXT,
    "experiment=depth": STEPS,
    "experiment=digits": f"{STEPS} model.hidden=8 data.batch_size=8",
    "experiment=line_120": STEPS,
    "experiment=through_time": f"{STEPS} model.hidden=8 data.length=10 data.validation=20",
    # With these values each policy clips within six steps.
    "clip=adagc": f"{TINY} clip.warmup=1 clip.ratio=0.9",
    "clip=chain": f"{TINY} clip.links.elements.max=0.05 clip.links.whole.max=0.3",
    "clip=drop": f"{TINY} clip.max=0.6",
    "clip=ema": f"{TINY} clip.warmup=1 clip.ratio=0.9",
    "clip=norm": f"{TINY} clip.max=0.3",
    "clip=normalize": f"{TINY} clip.max=0.3",
    "clip=quantile": f"{TINY} clip.initial=0.3",
    "clip=rms": f"{TINY} clip.max=0.001",
    "clip=spike": f"{TINY} clip.warmup=1 clip.theta=1.5",
    "clip=zclip": f"{TINY} clip.warmup=2 clip.threshold=0.5",
}
# Values of single keys, each in a run of its own with TINY.
KEYS = """
micro_batches=2 | device.precision=bfloat16 | device.precision=float16 clip.nonfinite=drop | data.sample=20
log.histograms=true | log.gradient_norms=no | log.first_steps=2 | log.every=2 log.parameters_every=4 | repeat_batches=2
checkpoint.keep=1 checkpoint.every=1 | clip.scope=unit clip.max=0.05 | clip.norm_type=inf clip.max=0.05
clip.include=[recurrent.*] clip.exclude=[*bias*] clip.max=0.1 | clip.schedule=linear clip.final=0.1 clip.over=6
clip.fold=auto clip.max=0.3 | optimizer.lr=1e6 | optimizer.lr=1e38 divergence.factor=null
"""
WRONG = """
clip.maks=1 | +clip.mx=1 | clp=norm | clip=nrom | clip=null | model=7 | optimizer=adam optimizer.momentum=0.9
clip.max=-1 | steps=0 | model.layers=10000000 | clip.max=abc | steps=1.5 | clip.nonfinite=zro | steps | --frobnicate
clip.max=1,2 | data.path=absent.txt | data.path=. | data.path=binary.dat | data.path=short.txt
data.path=small.txt data.batch_size=1000000 | model=linear_net | device.precision=float16 | micro_batches=64
schedule.warmup=9999 | optimizer.nesterov=true | clip.include=[nope.*] | clip.exclude=[*]
init_from=absent.pt | init_from=short.txt | resume=latest | resume=short.txt
sweep.dry_run=true | sweep.resume=absent | -m clip.max=1,-1 | -m clip=norm,nrom | -m clip.max=interval(0,1)
-m model=rnn,mlp data.path=small.txt | -m seed=1,2 resume=latest
--config-dir=more | --config-path=more | hydra.searchpath=[file://more] experiment=typo
hydra/sweeper=optuna | -m hydra/sweeper=optuna seed=1,2 | hydra.searchpath=[file://more] experiment=sweeper
-m clip=none,norm clip.maks=1 | -m clip=norm,zclip clip.theta=3 | -m seed=1,2 sweep.jobs=0 | -m seed=1,2 sweep.jobs=1,2
-m seed=1,2 hydra.sweep.subdir=x | -m seed=shuffle(1,2) | -m seed=3 sweep.method=optuna
-m optimizer.lr=interval(-1,1) sweep.method=optuna | -m clip=norm,nrom sweep.method=optuna
-m seed=1,2 sweep.method=optuna sweep.trials=0 | -m seed=1,2 sweep.launcher=slurm
"""
# Hydra's own settings, each with TINY: some versions of the project accept them, others refuse them.
HYDRA = """
hydra/launcher=joblib | -m hydra/launcher=joblib seed=1,2 | hydra.launcher.n_jobs=2 | hydra.mode=MULTIRUN
hydra.searchpath=[file://more] experiment=launcher | -m hydra.searchpath=[file://more] experiment=launcher seed=1,2
hydra.searchpath=[file://more] experiment=grid | -m hydra.searchpath=[file://more] experiment=grid
"""
SCRIPTS = ("evaluate", "export", "status", "suggest_max", "report")  # scripts that read a folder
ALL = r"(?s).+"  # for Command.hidden: the whole text depends on the timing of a signal


@dataclass(frozen=True)
class Command:
    """A program of the checkout, and its arguments.

    stop: a signal and a glob pattern; the program gets the signal as soon as a file matches. hidden: a regular
    expression for output that differs between executions. environment: variables that are set for the program.
    """

    program: str
    arguments: tuple[str, ...]
    stop: tuple[signal.Signals, str] | None = None
    hidden: str = r"(?!)"
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Case:
    """A sequence of commands in one folder."""

    name: str
    commands: tuple[Command, ...]


def cases(checkout: Path) -> list[Case]:
    """All cases: one for each option of each group in this checkout, and those that all checkouts share."""
    options = [
        f"{group}={file.stem}" for group in GROUPS for file in sorted((checkout / "conf" / group).glob("*.yaml"))
    ]
    found = [Case(f"option/{option}", (train(f"{option} {PARTNERS.get(option, TINY)}"),)) for option in options]
    found += [Case(f"key/{overrides}", (train(f"{TINY} {overrides}"),)) for overrides in _each(KEYS)]
    found += [Case(f"hydra/{overrides}", (train(f"{TINY} {overrides}"),)) for overrides in _each(HYDRA)]
    found += [Case(f"wrong/{overrides}", (train(overrides),)) for overrides in _each(WRONG)]
    return [*found, *(Case(name, commands) for name, commands in {**_resumed(), **_sweeps(), **_scripts()}.items())]


def _each(table: str) -> list[str]:
    return [entry.strip() for line in table.strip().splitlines() for entry in line.split(" | ")]


def train(
    overrides: str,
    *,
    stop: tuple[signal.Signals, str] | None = None,
    hidden: str = Command.hidden,
    environment: tuple[tuple[str, str], ...] = (),
) -> Command:
    """Makes the command `python train.py` with overrides."""
    return Command("train.py", tuple(overrides.split()), stop, hidden, environment)


def _script(name: str, arguments: str = "", hidden: str = Command.hidden) -> Command:
    return Command(f"scripts/{name}.py", tuple(arguments.split()), hidden=hidden)


def _resumed() -> dict[str, tuple[Command, ...]]:
    """Runs that are stopped and resumed, and an uninterrupted run of the same configuration."""
    found: dict[str, tuple[Command, ...]] = {}
    for name, number in (("killed", signal.SIGKILL), ("sigint", signal.SIGINT), ("sigterm", signal.SIGTERM)):
        stopped = train(f"{LONG} hydra.run.dir=outputs/runs/stopped", hidden=ALL,
                        stop=(number, "outputs/runs/stopped/checkpoints/step_*.pt"))  # fmt: skip
        whole = train(f"{LONG} hydra.run.dir=outputs/runs/whole")
        asked = _script("status", "outputs/runs/stopped", r"step \d+")
        found[f"resume/{name}"] = (whole, stopped, asked, train("resume=outputs/runs/stopped", hidden=ALL))
    first = train(f"{TINY} hydra.run.dir=outputs/runs/one")
    for name, overrides in {"finished": "", "extended": "steps=12", "refused": "model.hidden=16",
                            "another_folder": "steps=12 hydra.run.dir=there",
                            "another_log": "steps=12 hydra/job_logging=disabled"}.items():  # fmt: skip
        found[f"resume/{name}"] = (first, train(f"resume=outputs/runs/one {overrides}"))
    start = "init_from=outputs/runs/one/checkpoints/best.pt"
    found["resume/init_from"] = (first, train(f"{TINY} {start} hydra.run.dir=outputs/runs/two"))
    found["resume/folder_taken"] = (first, first)
    return found


def _sweeps() -> dict[str, tuple[Command, ...]]:
    """Grids with a diverging job and duplicates, with a wrong point, interrupted, with parallel jobs; a search."""
    grid = f"-m {TINY} steps=60 clip=none clip.norm_type=2,2.0 optimizer.lr=1,1e6"
    stopped = train(f"-m {LONG} seed=1,2,3", hidden=ALL,
                    stop=(signal.SIGINT, "outputs/sweeps/*/1/checkpoints/step_*.pt"))  # fmt: skip
    resume = train("sweep.resume=outputs/latest", hidden=ALL)
    return {
        "sweep/diverged_and_duplicate": (train(grid, hidden=ALL), train("sweep.resume=outputs/latest")),
        "sweep/bad_point": (train(f"{grid} seed=1,-1"),),
        "sweep/unbuildable": (train(f"-m {TINY} data.path=small.txt,absent.txt", hidden=ALL),),
        "sweep/dry_run": (train(f"{grid} sweep.dry_run=true"),),
        "sweep/two_jobs_at_once": (train(f"-m {TINY} seed=1,2 sweep.jobs=2", hidden=ALL),),
        "sweep/key_of_some_options": (train(f"-m {TINY} clip=norm,zclip clip.threshold=2,3", hidden=ALL),),
        "sweep/resumed_with_another_point": (
            train(f"-m {TINY} seed=1,2", hidden=ALL),
            train("sweep.resume=outputs/latest seed=3"),
        ),
        "sweep/search": (
            train(
                f"-m {TINY} sweep.method=optuna optimizer.lr=interval(0.1,1) sweep.trials=3 "
                "hydra.sweep.dir=outputs/sweeps/search",
                hidden=ALL,
            ),
            train("sweep.resume=outputs/latest sweep.trials=4", hidden=ALL),
        ),
        "sweep/interrupted": (stopped, train("sweep.resume=outputs/latest sweep.dry_run=true", hidden=ALL), resume),
    }


def _scripts() -> dict[str, tuple[Command, ...]]:
    """The other programs, and the modes of train.py that train nothing."""
    run = train(f"{TINY} clip.max=0.3 steps=12 hydra.run.dir=outputs/runs/one")
    sweep = train(f"-m {TINY} clip=none,norm clip.max=0.3 seed=1,2", hidden=ALL)
    one = "outputs/runs/one"
    search = f"--trials 3 --sampler-seed 1 clip=norm,value {TINY}"
    return {
        "script/evaluate": (run, _script("evaluate", one), _script("evaluate", f"{one} --checkpoint last")),
        "script/export": (run, _script("export", one), _script("export", f"{one} --checkpoint 9 --to 9.safetensors")),
        "script/status": (run, _script("status", one)),
        "script/suggest_max": (run, _script("suggest_max", one), _script("suggest_max", f"{one} --tag loss/train")),
        "script/inspect_gradients": (_script("inspect_gradients", f"{TINY} clip.max=0.3 --steps 2"),),
        "script/report": (sweep, _script("report"), _script("report", "outputs/latest --folder there")),
        "script/tune": (_script("tune", search), _script("tune", search.replace("3", "4", 1))),
        "script/absent": tuple(_script(name, "absent") for name in SCRIPTS),
        "script/wrong": (_script("inspect_gradients", "clip.maks=1"), _script("tune", "--trials 0")),
        "answer/help": (train("--help"), train("clip=agc optimizer=adam --help")),
        "answer/configuration": (train("--cfg job"),),
        "answer/torchrun": (train(TINY, environment=(("WORLD_SIZE", "4"), ("RANK", "1"))),),
    }
