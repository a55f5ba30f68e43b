# `make help` lists the targets. Commands run in .venv, which the first target that needs it creates.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install train test check format tensorboard report clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: .venv/installed ## create .venv with the tested versions of all packages

train: .venv/installed ## train with the default configuration; ARGS="clip=value clip.max=0.1" changes it
	$(BIN)/python train.py $(ARGS)

test: .venv/installed ## run the tests
	$(BIN)/python -m pytest $(ARGS)

check: .venv/installed ## formatting, lint, types and import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy src scripts train.py tests $(wildcard evidence)
	PYTHONPATH=src $(BIN)/lint-imports --no-cache

format: .venv/installed ## format the code and apply the linter's automatic fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

tensorboard: .venv/installed ## open all runs and sweeps in TensorBoard
	$(BIN)/tensorboard --logdir_spec runs:outputs/runs,sweeps:outputs/sweeps # not outputs, in which latest would show a run twice

report: .venv/installed ## write the report of the newest sweep; ARGS="SWEEP …" chooses others
	$(BIN)/python scripts/report.py $(ARGS)

clean: ## delete the environment and the caches, but no runs
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else "error: Python 3.11 to 3.13 is needed, and this is %d.%d; name another: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

-include evidence/Makefile
