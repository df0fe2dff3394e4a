# `make demo` and `make test` do all of their set-up. Only Python 3.11 or later and make are needed.

PYTHON ?= python3
VENV ?= .venv
LMMS_VENV ?= .venv-lmms
# Arguments for `make demo`, `make train` and `make lmms-eval`: make demo ARGS="--retention 0.35"
ARGS ?=
# Processes of `make test`, each with one thread.
JOBS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
# A stamp is older than what it was made from: then, and only then, pip runs again.
BASE := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
LMMS := $(LMMS_VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: demo test lint format train lmms-eval clean help

demo: $(BASE)  ## compare vanilla and five strategies on the bundled model
	@$(BIN)/lightkv demo $(ARGS)

test: lint  ## all checks, then all tests; stops at the first that fails
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

lint: $(DEV)  ## format check, linter, types, import walls
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(DEV)  ## rewrite the code in the project's style
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

train: $(DEV)  ## train the demo model anew into runs/train
	@$(BIN)/python -m lightkv.demo.train --out runs/train $(ARGS)

lmms-eval: $(LMMS)  ## lightkv inside lmms-eval, in an environment of its own (7 GB)
	@$(LMMS_VENV)/bin/python -m pytest tests/lmms
	@$(LMMS_VENV)/bin/python benchmarks/lmms_scenes/run.py $(ARGS)

# Wheels for `benchmarks/gpu_check.sh` on a machine with a GPU and no index: lightkv's dependencies without
# torch, for the Python that the machine's torch runs on (make gpu-wheels GPU_PYTHON=3.13 ARGS="--has numpy").
GPU_PYTHON ?= 3.12
.PHONY: gpu-wheels
gpu-wheels: $(VENV)/bin/python  ## wheels for a machine with a GPU and no index, into .gpu-wheels
	@$(BIN)/python benchmarks/gpu_wheels.py --python $(GPU_PYTHON) $(ARGS)

clean:  ## remove the environments and all caches
	rm -rf $(VENV) $(LMMS_VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis \
		.import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## this list
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "lightkv needs Python 3.11 or later; try: make PYTHON=python3.11 <target>" >&2; exit 1; }
	@echo "creating $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV)

# setuptools first: with it in place pip builds lightkv here instead of in a second environment.
$(BASE): pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing lightkv into $(VENV) (once; torch is large)"
	@$(PIP) "setuptools>=77"
	@$(PIP) --no-build-isolation --editable .
	@touch $@

$(DEV): $(BASE)
	@echo "installing the development tools into $(VENV) (once)"
	@$(PIP) --no-build-isolation --editable ".[dev]"
	@touch $@

# Build isolation stays on: some packages that lmms-eval needs come as sources only.
$(LMMS): pyproject.toml constraints-lmms.txt
	@$(PYTHON) -m venv $(LMMS_VENV)
	@echo "installing lmms-eval into $(LMMS_VENV) (once; torch with CUDA, several GB)"
	@$(LMMS_VENV)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints-lmms.txt \
		--editable ".[lmms-eval,testing]"
	@touch $@
