# Every target sets up what it needs; only Python 3.11 to 3.13 and Java 17 or newer must be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ALERTS ?=
NUMBER ?= 1000
# Two files of tests at a time: the slow ones wait for JVMs and brokers more than they compute.
SIDE_BY_SIDE := -n 2 --dist loadfile
# Versions and hashes come from requirements/, so pip resolves nothing. pyspark is built with what is installed first.
INSTALL := DIST_EXTRA_CONFIG=$(abspath requirements/build.cfg) $(BIN)/python -m pip --quiet --retries 2 \
           --disable-pip-version-check install --no-deps --no-build-isolation
LOCK := $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
        --no-header --no-annotate --no-emit-index-url

export PYSPARK_PYTHON := $(abspath $(BIN)/python)
export PYSPARK_DRIVER_PYTHON := $(PYSPARK_PYTHON)

# The TOM of a test has an environment apart: its toolkit needs older numpy and Django.
TOM_VENV ?= .cache/tom

.PHONY: help venv demo lock test check unit soak bench wheel tom clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

venv: $(VENV)/.plain ## virtual environment with what the broker needs

$(VENV)/.plain: requirements/build.txt requirements/plain.txt pyproject.toml
	@$(PYTHON) -m alerce_spark.needs
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) --require-hashes -r requirements/build.txt || \
	  { echo "pip failed, see above: does it reach a package registry?"; exit 1; }
	@began=$$(date +%s) && $(INSTALL) --require-hashes -r requirements/plain.txt && $(INSTALL) -e . && \
	  echo "Installed in $$(($$(date +%s) - began)) s"
	@touch $@

# Also training, tests and development.
$(VENV)/.all: $(VENV)/.plain requirements/all.txt
	@echo "Installing what training, tests and development need: about 0.5 GB to fetch"
	@$(INSTALL) --require-hashes -r requirements/all.txt
	@touch $@

demo: venv ## a simulated night through Kafka and Spark into tables; ALERTS=<dir or tar.gz> takes real packets
	@$(BIN)/alerce-spark demo --number $(NUMBER) $(if $(ALERTS),--alerts $(ALERTS))

lock: $(VENV)/.all ## newest versions that pyproject.toml allows, with hashes, into requirements/
	$(LOCK) --upgrade --group build --output-file requirements/build.txt
	$(LOCK) --upgrade --output-file requirements/plain.txt
	$(LOCK) --upgrade --extra dev --constraint requirements/plain.txt --output-file requirements/all.txt

check: $(VENV)/.all ## lint, format, spelling and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

unit: $(VENV)/.all ## tests without a JVM
	$(BIN)/pytest tests/unit -m "not soak" $(SIDE_BY_SIDE)

test: check ## lint, spelling, types and all tests
	$(BIN)/pytest -m "not soak" $(SIDE_BY_SIDE)

soak: $(VENV)/.all ## the long forms of the fault tests
	$(BIN)/pytest -m soak

bench: $(VENV)/.all ## speeds as ratios against named baselines; results go to benchmarks/results/
	$(BIN)/python -m benchmarks.run

wheel: $(VENV)/.plain ## wheel and source archive, into dist/
	@rm -rf dist
	$(BIN)/python -m hatchling build

tom: $(TOM_VENV)/.ready ## environment of a TOM with clients/tom_alerce_spark, for its test

$(TOM_VENV)/.ready: clients/tom_alerce_spark/pyproject.toml
	@test -x $(TOM_VENV)/bin/python || $(PYTHON) -m venv $(TOM_VENV)
	@$(TOM_VENV)/bin/python -m pip --quiet --retries 2 --disable-pip-version-check install -e clients/tom_alerce_spark
	@touch $@

clean: ## remove what the targets made
	rm -rf $(VENV) $(TOM_VENV) dist demo-lake .pytest_cache .mypy_cache .ruff_cache
