# Three commands matter: `make demo`, `make study` and `make test`. They install what they need.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
BIN := .venv/bin
SYSTEM_PACKAGES := chromium dataset-fashion-mnist fonts-dejavu-core strace texlive-science
SLURM_PACKAGES := slurm-wlm slurmdbd munge mariadb-server

.PHONY: help install demo study test gpu-check cluster cluster-down lint types format hooks architectures networks notebook terminal docs lock clean
help: ## list these targets
	@grep -E '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: .venv/.users ## install the packages into .venv; then `source .venv/bin/activate`

demo: .venv/.users ## train BN and XBN on real images in four minutes, and say which shifts less
	$(BIN)/shiftbench run configs/experiments/demo.yaml --output-dir runs/demo --jobs 2
	$(BIN)/shiftbench report runs/demo --out out/demo
	@echo "next: $(BIN)/shiftbench reproduce --jobs 2    (the paper's claims, each with a verdict)"

study: .venv/.users ## how small may the norm batch be? Run a study with Ray Tune in ten minutes, and write a report
	$(BIN)/shiftbench tune configs/studies/small-batch-demo.yaml --output-dir runs/study --resume
	$(BIN)/shiftbench report runs/study --out out/study

test: .venv/.developers system-packages slurm-packages ## run the test suite
	$(BIN)/pytest -n 5 --dist loadfile --no-loadscope-reorder

cluster: root slurm-packages .venv/.users ## start a four-node Slurm on this machine, to try submitting (root, Debian)
	@$(PYTHON) tests/cluster/testcluster.py up

cluster-down: ## end that Slurm
	@$(PYTHON) tests/cluster/testcluster.py down

bench-%: .venv/.developers ## measure the speed of shiftbench: loader, data, train, probe, agreeing, submit, tune or report; bench-model predicts a GPU's speed
	$(BIN)/python -m benchmarks $* $(ARGS)

gpu-check: ## what only a GPU can show, in eight minutes and without a network; ARGS=--rehearse: on a CPU
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu.check $(ARGS)

lint: .venv/.developers ## check style, and which package may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/.developers ## check types with mypy, strict
	$(BIN)/mypy

format: .venv/.developers ## format the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

hooks: ## check style and types before each commit in this checkout
	git config core.hooksPath .githooks

architectures: .venv/.users ## measure the channels of all networks, after a family was added or changed
	$(BIN)/python -m tests.helpers.generate_architectures

networks: .venv/.developers ## convert every network of timm and torchvision, and write docs/networks.md
	$(BIN)/python -m tests.helpers.zoo

notebook: ## write examples/walkthrough.ipynb, after the script beside it was changed
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m website.walkthrough

terminal: .venv/.users ## record `run`, `status` and `tune` on a terminal, and write docs/terminal.md
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m website.terminal

docs: .venv/.developers ## write the documentation site to out/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lock: .venv/.users ## update requirements*.txt from pyproject.toml
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	  --extra train --extra dali --extra slurm --extra tune --extra optuna --extra robust --extra detection --extra build pyproject.toml --output-file requirements.txt
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	  --extra train --extra dali --extra slurm --extra tune --extra optuna --extra robust --extra detection --extra build --extra dev --constraints requirements.txt pyproject.toml \
	  --output-file requirements-dev.txt

clean: ## remove the virtual environment and caches; keep runs
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

.venv/bin/uv:
	$(PYTHON) -m venv .venv || (test "$$(id -u)" = 0 && apt-get update -qq && \
	  apt-get install -y -qq python3-venv && $(PYTHON) -m venv --clear .venv) || \
	  { echo "error: $(PYTHON) -m venv does not work; as root: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.5'

.venv/.users: .venv/bin/uv requirements.txt pyproject.toml
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

.venv/.developers: .venv/.users requirements-dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-dev.txt
	touch $@

.PHONY: root system-packages slurm-packages
root:
	@test "$$(id -u)" = 0 || { echo "error: the test cluster needs root on Debian" >&2; exit 2; }

system-packages: WANTED := $(SYSTEM_PACKAGES)
slurm-packages: WANTED := $(SLURM_PACKAGES)
system-packages slurm-packages:
	@missing=$$(for p in $(WANTED); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	else \
	  echo "NOTE: not installed:" $$missing "- tests that need them are skipped and say so" >&2; \
	fi
