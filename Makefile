# What people type.  Needs only Python >= 3.11, git and make; everything else is installed into $(VENV).
#
#   make demo      a local network of 12 node processes loses holders and gives the data back
#   make theseus   every node of a network is killed and replaced, and the data is still there; minutes
#   make test      the test suite (what .ci/run calls, after the linters)
#   make nightly   the long tests too
#   make lint      ruff, mypy, import-linter
#   make bench     all benchmarks, some minutes: tables, and JSON in $(BENCH_OUT)
#   make bench-peers  the same work on Tahoe-LAFS, zfec and eris from PyPI, and the ratios
#   make wheel     sdist, and the wheel built from the sdist, into dist/

# The first Python that is new enough and can make environments; `make PYTHON=python3.13 test` overrides.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo "$$p"; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Two processes more than cores, at most six: the tests with real node processes mostly wait for them.
# Whole files stay together, so that what a file sets up is set up once; tests/support/running_order.py says which
# begin first (xdist itself would begin with those that have most tests).
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(6, 2 + (os.cpu_count() or 1)))')
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
PYTEST_ARGS ?=
DIST ?= dist
# What is measured has the extra [fast]; an environment of its own, so that tests run without it.
BENCH_VENV ?= .venv-bench
BENCH_OUT ?= bench.json
BENCH_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo theseus test nightly bench bench-peers lint format wheel clean

help:
	@sed -n '3,10s/^# *//p' Makefile

# The stamps make each set of packages be installed once, and again when pyproject.toml changes.
$(VENV)/.stamp-pip:
	@test -n "$(PYTHON)" || { echo "potsherd needs Python 3.11 or newer (with venv); none found" >&2; exit 1; }
	@echo "making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --upgrade "pip>=25.1"
	@touch $@

$(VENV)/.stamp-run: $(VENV)/.stamp-pip pyproject.toml
	@echo "installing potsherd into $(VENV)"
	@$(PIP) install --editable ".[hdf5]"
	@touch $@

$(VENV)/.stamp-test: $(VENV)/.stamp-run
	@echo "installing what the tests need into $(VENV)"
	@$(PIP) install --group test
	@touch $@

$(VENV)/.stamp-nightly: $(VENV)/.stamp-test
	@echo "installing what only the long tests need into $(VENV)"
	@$(PIP) install --group nightly
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-test
	@echo "installing the linters into $(VENV)"
	@$(PIP) install --group dev
	@touch $@

demo: $(VENV)/.stamp-run
	@$(BIN)/python -m potsherd.cli.demo

theseus: $(VENV)/.stamp-run
	@$(BIN)/python -m potsherd.cli.theseus

test: $(VENV)/.stamp-test
	$(PYTEST) -m "not nightly" $(PYTEST_ARGS)

nightly: $(VENV)/.stamp-nightly
	HYPOTHESIS_PROFILE=explore $(PYTEST) --timeout 3000 -o faulthandler_timeout=3000 $(PYTEST_ARGS)

$(BENCH_VENV)/.stamp: pyproject.toml
	@test -n "$(PYTHON)" || { echo "potsherd needs Python 3.11 or newer (with venv); none found" >&2; exit 1; }
	@echo "making $(BENCH_VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(BENCH_VENV)
	@$(BENCH_VENV)/bin/python -m pip --disable-pip-version-check --quiet install --upgrade "pip>=25.1"
	@$(BENCH_VENV)/bin/python -m pip --disable-pip-version-check --quiet install --editable ".[fast,hdf5]"
	@# Intel ISA-L, the yardstick of the erasure code, comes with this wheel; benchmarks do without where there is none.
	@$(BENCH_VENV)/bin/python -m pip --disable-pip-version-check --quiet install pyeclib \
		|| echo "pyeclib does not install here: no comparison with ISA-L"
	@touch $@

bench: $(BENCH_VENV)/.stamp
	$(BENCH_VENV)/bin/python benchmarks/bench.py --out $(BENCH_OUT) $(BENCH_ARGS)

bench-peers: $(BENCH_VENV)/.stamp
	$(BENCH_VENV)/bin/python benchmarks/peers.py --out $(BENCH_OUT:.json=-peers.json) $(BENCH_ARGS)

lint: $(VENV)/.stamp-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.stamp-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(VENV)/.stamp-dev
	$(BIN)/python -m build --outdir $(DIST) .

clean:
	rm -rf $(VENV) $(BENCH_VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
