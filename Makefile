# One entry point for people, CI and pre-commit. `make` alone lists the targets.
.DEFAULT_GOAL := help
.PHONY: help setup demo test dev stack lint docs screenshots bench lock clean
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# The interpreter that .venv is made of: 3.11 to 3.13. If this one is too old or too new, the others are tried.
PYTHON ?= python3

BIN := .venv/bin
PY := $(BIN)/python
STAMP := .venv/.setup-stamp

# A .venv that was moved, half made or lost its interpreter is set up again. Any other is up to date when its stamp is.
ifneq ($(shell $(PY) -I -S -c '' 2>/dev/null && cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## .venv with the locked dependencies and the package; nothing to do when up to date

$(STAMP): requirements-dev.txt pyproject.toml tools/setup.sh
	@PYTHON="$(PYTHON)" sh tools/setup.sh

demo: setup ## land the sample data, run every pipeline on the embedded default, show what landed where
	@$(BIN)/ingestion demo

# Some of the suite's time is waiting for servers and processes: one worker more than CI has cores. One that dies ends the run: with another
# in its place, the last tests are given to nobody, and the run waits for them.
test: ARGS ?= -n 3 --max-worker-restart 0 --dist loadfile --no-loadscope-reorder
test: setup ## the whole test suite (ARGS="-k name" for a part of it)
	@$(PY) -m pytest $(ARGS)

dev: setup ## the Dagster UI with sensors on, at http://localhost:3000 (SEARCH=opensearch: with a real search cluster)
	@INGESTION_SENSORS=running $(PY) -m ingestion_dagster.dev $(if $(SEARCH),--search $(SEARCH))

stack: setup ## what production runs as containers, as processes: code servers, daemon, two web interfaces, API
	@INGESTION_SENSORS=running $(PY) -W ignore -m ingestion_dagster.stack $(ARGS)

lint: setup ## every static check: format, style, types, layers, secrets, image, services, workflows, definitions
	@sh tools/lint.sh

docs: setup ## the documentation as a site, in build/site (every link, anchor and image is checked)
	@NO_MKDOCS_2_WARNING=1 $(PY) -W ignore -m mkdocs build --strict

screenshots: setup ## the screenshots of the docs, taken anew by the browser tests (needs Chromium)
	@TAKE_SCREENSHOTS=1 $(PY) -m pytest -q ingestion_dagster_tests/test_ui.py

# The peers have an environment of their own: what they pin is no business of ours.
PEERS := .venv/bench
INGESTR := .venv/bench-ingestr

bench: $(PEERS)/.stamp $(INGESTR)/.stamp ## every benchmark, as tables of ratios (ARGS="--quick" without the long ones)
	@$(PY) -m benchmarks $(ARGS)

$(PEERS)/.stamp: requirements-bench.txt
$(INGESTR)/.stamp: requirements-bench-ingestr.txt
$(PEERS)/.stamp $(INGESTR)/.stamp: | setup
	@echo "bench: $<"
	@$(BIN)/uv venv --quiet --clear --python $(PY) $(@D)
	@VIRTUAL_ENV="$(CURDIR)/$(@D)" $(BIN)/uv pip sync --quiet --require-hashes --compile-bytecode $<
	@touch $@

lock: setup ## compile pyproject.toml into the hash-locked requirements files
	@sh tools/lock.sh

clean: ## remove .venv, caches and build output (never .ingestion: that is data)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
