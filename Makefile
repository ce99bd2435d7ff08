# Two commands from nothing: `make demo` and `make test`. Both make the environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := demo
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export OMP_WAIT_POLICY := passive
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: help env demo test check nightly chaos sbom clean

help:
	@echo "make demo     a mock survey through the whole line: catalog and report in $(DEMO)/"
	@echo "make test     format, lint, types, walls and the test suite"
	@echo "make nightly  what is too long for every day"
	@echo "make chaos    kills at random, EVENTS=200 of them, and the catalog must not show"
	@echo "make sbom     what the environment is made of: sbom.json"
	@echo "make clean    remove $(DEMO)/ and the environment"

env: $(READY)

# torch first: a package that wants it would otherwise bring the CUDA build along.
$(READY): pyproject.toml deploy/constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "scalespec wants Python 3.11 or newer: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint deploy/constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint deploy/constraints.txt --editable '.[dev]'
	touch $(READY)

demo: env
	$(BIN)/scalespec mock $(DEMO) --n-spectra 2048 --seed 1 --recipe binary=0 --even-fibres
	$(BIN)/scalespec run $(DEMO)/run.toml
	$(BIN)/scalespec status $(DEMO)/run.toml
	$(BIN)/scalespec verify $(DEMO)/run.toml
	$(BIN)/scalespec run $(DEMO)/matched.toml
	@echo "two emulators, two catalogs, two pages: look at $(DEMO)/work/report/*/index.html"

check: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/python -m pytest -m "not slow and not gpu" -n 2 --dist loadfile

nightly: check
	$(BIN)/python -m pytest -m "not gpu" -n 0 --timeout 3600

chaos: env
	$(BIN)/python benchmarks/chaos.py --events $(or $(EVENTS),200) --stores disk s3 --json benchmarks/results/chaos.json

sbom: env
	$(PYTHON) -m venv .sbom
	.sbom/bin/pip install --quiet cyclonedx-bom
	.sbom/bin/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --output-reproducible -o sbom.json

clean:
	rm -rf $(DEMO) $(VENV)
