# Everything goes into .venv; nothing else is needed first but python3.11 (or newer), make and, for real brokers in the
# tests, the right to install Debian packages.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench deb boot-test image-test docs clean system-packages

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

setup: $(VENV)/.ready  ## create .venv with everything in it

$(VENV)/.ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: python3.11 or newer is needed on PATH (or: make PYTHON=/path/to/python3.11)"; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is older than 3.11"; exit 2; }
	@echo "setting up $(VENV) (a minute or two, once)"
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@echo "compiling the optimiser (a minute or two, once)"
	@$(BIN)/wattshift-controller --warm-up
	@touch $@

demo: setup  ## run the main job here: broker, controller, two simulated hybrid sites (ARGS="--for 60s --json")
	@$(BIN)/wattshift demo $(ARGS)

system-packages:  # Mosquitto and Slurm for the tests that need the real ones; named skips where they may not be installed
	@deploy/install-test-packages || true

test: setup system-packages  ## linters, types, import layers and the whole test suite
	@$(MAKE) --no-print-directory check
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

check: setup  ## ruff, mypy --strict, import layers, generated files
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check -q .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python -m contract.asyncapi --check
	@$(BIN)/python deploy/grafana/generate.py --check

format: setup  ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix -q . ; $(BIN)/ruff format -q .

bench: setup system-packages  ## the main job's benchmarks; each prints one JSON object as its last line (others: docs/benchmarks.md)
	@for name in poll shed latency ingest ops; do echo "== bench.$$name"; $(BIN)/python -m bench.$$name $(ARGS) || exit 1; done

deb: setup  ## build/wattshift_VERSION_ARCH.deb
	@PYTHON=$(BIN)/python NFPM=$(BIN)/nfpm deploy/packaging/build-deb

boot-test: deb  ## boot a Debian, install the package there, look whether the daemons run (root, mmdebstrap, systemd-nspawn)
	@WATTSHIFT=$(BIN)/wattshift deploy/boot/boot-test

image-test:  ## build the container image and run what is in it (root, buildah, after boot-test)
	@deploy/image-test

clean:  ## remove .venv and caches
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build *.egg-info
