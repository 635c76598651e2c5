# make app     set everything up and open the app with the bundled demo
# make test    set everything up and run the tests in JOBS=2 processes (MARK="slow or not slow" runs them all)
# make check   lint, format, types, order of imports, lock files
# make bench   measure the figures that the README quotes (needs PRUNESCOPE_DATA for the real photos)
# make fuzz    damaged files and odd words for MINUTES=30, then runs killed at 50 random moments
# make audit   known flaws of the packages in the lock files (needs a network), and their licences
# make lock    rewrite the lock files after a change of requirements*.txt (ARGS=--upgrade upgrades all others)

PYTHON ?= python3
PORT ?= 8501
MARK ?= not slow
JOBS ?= 2
MINUTES ?= 30
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest
# analysis/setup.py sets this too and says why; scripts that import torch before it need it here
export GOMP_SPINCOUNT ?= 10000

.PHONY: app test check bench fuzz audit lock clean
.DEFAULT_GOAL := app

app: $(VENV)/.app
	$(BIN)/python -m app --server.port $(PORT)

# Browser tests and those of times are all slow. They run last and one at a time, because a browser, a server
# and a run already share the cores, and a time means something only while nothing else runs. Exit code 5 of
# pytest means "no tests": MARK and ARGS may leave one of the two parts empty.
ifeq ($(MARK),not slow)
test: $(VENV)/.dev
	$(PYTEST) -n $(JOBS) --dist loadfile -m "$(MARK)" $(ARGS)
else
test: $(VENV)/.dev
	$(PYTEST) -n $(JOBS) --dist loadfile -m "($(MARK)) and not (browser or timing)" $(ARGS) || [ $$? = 5 ]
	$(PYTEST) -m "($(MARK)) and (browser or timing)" $(or $(ARGS),tests/browser tests/pruning/kit) || [ $$? = 5 ]
endif

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) -q tests/test_imports.py tests/test_lock.py

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/demo.py
	$(BIN)/python benchmarks/demo_recovery.py
	$(BIN)/python benchmarks/gohsp_training.py
	$(BIN)/python benchmarks/qk_ordering.py
	$(BIN)/python benchmarks/zero_shot.py
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/scoring_cost.py
	$(BIN)/python benchmarks/spectral_cost.py
	$(BIN)/python benchmarks/pages.py
	$(PIP) -r benchmarks/requirements.txt
	$(BIN)/python benchmarks/peer.py
	$(BIN)/python benchmarks/cifar10.py --size transfer

# What fails lies in build/fuzz: `.venv/bin/python -m tests.fuzz FILE` tries it again.
fuzz: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --minutes $(MINUTES) $(ARGS)

# pip-audit brings packages of its own, which do not belong among those of the app.
audit: $(VENV)/.dev build/audit/bin/pip-audit
	$(BIN)/python tools/licences.py
	build/audit/bin/python tools/audit.py

build/audit/bin/pip-audit: requirements-audit.txt
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-audit.txt
	@touch $@

# pip runs again only if a lock file has changed, so that a second `make` starts in seconds.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "PruneScope needs Python 3.11 or newer: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.app: $(VENV)/bin/python requirements.lock constraints-cuda.txt
	$(PIP) -r requirements.lock
	@touch $@

$(VENV)/.dev: $(VENV)/.app requirements-dev.lock
	$(PIP) -r requirements-dev.lock
	@touch $@

# uv resolves for all systems and Python versions at once, with a single version of a package where possible.
# CUDA packages take part in resolving but are kept out of requirements*.lock; requirements.lock says why.
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
	--no-header --annotation-style line
CUDA := ^(nvidia-|cuda-|triton=)
# keeps the comments and options at the top of a file and replaces its pins by those on standard input
PINS = { grep '^[\#-]' $(1); cat; } > build/pins && mv build/pins $(1)

lock: $(VENV)/bin/python
	$(PIP) uv==0.13.9
	@mkdir -p build
	cat requirements.lock requirements-dev.lock constraints-cuda.txt | grep '==' > build/all.lock
	$(COMPILE) requirements-dev.txt -o build/all.lock $(ARGS)
	cp build/all.lock build/app.lock
	$(COMPILE) requirements.txt -o build/app.lock
	grep -E '$(CUDA)' build/all.lock | $(call PINS,constraints-cuda.txt)
	grep -vE '$(CUDA)' build/all.lock | awk 'NR == FNR { app[$$1]; next } !($$1 in app)' build/app.lock - \
		| $(call PINS,requirements-dev.lock)
	grep -vE '$(CUDA)' build/app.lock | $(call PINS,requirements.lock)

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache
