# make demo     the main job, end to end, and its report (sets everything up first)
# make test     lint, types, architecture and the fast tests (sets everything up first)
# make check    the quick part of `make test`, without set-up
# make slow     the tests that take minutes        make bench    ratios against peers
VENV ?= .venv
PY := $(if $(wildcard $(VENV)/bin/python),$(VENV)/bin/python,python3)
export OMP_NUM_THREADS ?= 1
# Compiled modules are kept even where the environment says otherwise: the packages are installed without them, and each
# process that a test starts would compile torch and transformers anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test check slow bench setup setup-dev clean

demo: setup
	$(VENV)/bin/toddle demo --resume

test: setup-dev
	$(MAKE) --no-print-directory lint PY=$(VENV)/bin/python
	$(VENV)/bin/python -m pytest -n 2

check: lint
	$(PY) -m pytest tests/test_architecture.py tests/core

.PHONY: lint
lint:
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy

slow: setup-dev
	$(VENV)/bin/python -m pytest -m slow

bench: setup-dev
	$(VENV)/bin/python benchmarks/simulation.py
	$(VENV)/bin/python benchmarks/ppo_speed.py

setup:
	@VENV=$(VENV) scripts/setup.sh user

setup-dev:
	@VENV=$(VENV) scripts/setup.sh dev

clean:
	rm -rf build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
