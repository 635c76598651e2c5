# make app     set everything up and open the app on the embedded demo
# make test    set everything up and run the tests (MARK="slow or not slow" runs all of them)
# make check   lint, format, types, direction of imports
# make bench   measure what the README quotes (needs PRUNESCOPE_DATA for the real photos)

PYTHON ?= python3
PORT ?= 8501
MARK ?= not slow
VENV := .venv
BIN := $(VENV)/bin
# as analysis/__init__.py says; here for scripts that import torch before it
export GOMP_SPINCOUNT ?= 10000

.PHONY: app test check bench clean
.DEFAULT_GOAL := app

app: $(VENV)/.app
	$(BIN)/python -m app --server.port $(PORT)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -m "$(MARK)" $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/demo.py
	$(BIN)/python benchmarks/demo_recovery.py
	$(BIN)/python benchmarks/qk_ordering.py
	$(BIN)/python benchmarks/zero_shot.py
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/scoring_cost.py
	$(BIN)/python benchmarks/spectral_cost.py
	$(BIN)/python benchmarks/pages.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	$(BIN)/python benchmarks/peer.py
	$(BIN)/python benchmarks/cifar10.py --size cpu

# pip runs again only when a requirements file has changed: a second run starts in seconds.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "PruneScope needs Python 3.11 or newer: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.app: $(VENV)/bin/python requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.app requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache
