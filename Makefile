# `make help` lists the targets. Commands run in .venv, which the first target that needs it creates; VENV=FOLDER names an
# environment that is used as it is.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(if $(filter .venv,$(VENV)),.venv/installed)
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install train test test-fast check format tensorboard report schema new rename update clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(READY) ## create .venv with the tested versions of all packages

train: $(READY) ## train with the default configuration; ARGS="clip=value clip.max=0.1" changes it
	$(BIN)/python train.py $(ARGS)

test: $(READY) ## run the tests
	$(BIN)/python -m pytest $(ARGS)

test-fast: $(READY) ## run the quick tests of src/trainer and conf/, in 40 seconds of CPU time; ARGS="-k pattern" chooses
	$(BIN)/python -m pytest tests/trainer -m "not long" -n 0 $(ARGS)

check: $(READY) ## formatting, lint, types and import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy src scripts train.py tests $(wildcard evidence)
	PYTHONPATH=src $(BIN)/lint-imports --no-cache

format: $(READY) ## format the code and apply the linter's automatic fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

tensorboard: $(READY) ## open all runs and sweeps in TensorBoard
	$(BIN)/tensorboard --logdir_spec runs:outputs/runs,sweeps:outputs/sweeps # not outputs, in which latest would show a run twice

report: $(READY) ## write the report of the newest sweep; ARGS="SWEEP …" chooses others
	$(BIN)/python scripts/report.py $(ARGS)

schema: $(READY) ## write JSON schemas of the files in conf/ into schemas/, for editors: see docs/editors.md
	@$(BIN)/python scripts/schema.py

new: $(READY) ## make a project of your own: NAME=…, optionally DIR=FOLDER and SLIM=1
	@$(BIN)/python scripts/new_project.py "$(or $(NAME),$(error NAME is missing: make new NAME=…))" $(if $(DIR),--dir "$(DIR)") $(if $(SLIM),--slim)

rename: $(READY) ## make this checkout a project of your own, or rename it: NAME=…, optionally SLIM=1
	@$(BIN)/python scripts/new_project.py "$(or $(NAME),$(error NAME is missing: make rename NAME=…))" --here $(if $(SLIM),--slim)

update: $(READY) ## take gradclip, runner and their tests from a newer template, then run all tests: FROM=CHECKOUT-OR-ARCHIVE, optionally ARGS=--no-tests
	@$(BIN)/python scripts/update_project.py "$(or $(FROM),$(error FROM is missing: make update FROM=CHECKOUT-OR-ARCHIVE))" $(ARGS)

clean: ## delete the environment and the caches, but no runs
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else "error: Python 3.11 to 3.13 is needed, and this is %d.%d; name another: make PYTHON=python3.12" % v)'
	@if command -v uv >/dev/null; then \
		uv venv --quiet --allow-existing $(if $(filter-out python3,$(PYTHON)),--python $(PYTHON)) .venv && \
		uv pip install --quiet --python .venv/bin/python --constraint constraints.txt --editable ".[dev]"; \
	else \
		$(PYTHON) -m venv .venv && .venv/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"; \
	fi
	@touch $@

-include evidence/Makefile
