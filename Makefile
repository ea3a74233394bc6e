# Every target sets up what it needs; only Python >= 3.11 and Java 17+ must be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ALERTS ?=
NUMBER ?= 1000
# Two files of tests at a time: the slow ones wait for JVMs and brokers more than they compute.
SIDE_BY_SIDE := -n 2 --dist loadfile

export PYSPARK_PYTHON := $(abspath $(BIN)/python)
export PYSPARK_DRIVER_PYTHON := $(PYSPARK_PYTHON)

.PHONY: help venv demo test check unit soak bench clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

venv: $(VENV)/.complete ## virtual environment with everything

$(VENV)/.complete: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: venv ## a simulated night through Kafka and Spark into tables; ALERTS=<dir or tar.gz> takes real packets
	$(BIN)/alerce-spark demo --number $(NUMBER) $(if $(ALERTS),--alerts $(ALERTS))

check: venv ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: venv ## tests without a JVM
	$(BIN)/pytest tests/unit -m "not soak" $(SIDE_BY_SIDE)

test: check ## lint, types and all tests
	$(BIN)/pytest -m "not soak" $(SIDE_BY_SIDE)

soak: venv ## the long forms of the fault tests
	$(BIN)/pytest -m soak

bench: venv ## speeds as ratios against named baselines; results go to benchmarks/results/
	$(BIN)/python -m benchmarks.run

clean: ## remove what the targets made
	rm -rf $(VENV) demo-lake .pytest_cache .mypy_cache .ruff_cache
