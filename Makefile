# Two commands do everything: `make serve` and `make test`. Both need only Python 3.11+ and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A file's tests stay in one process, with the servers that they share.
PARALLEL := -n 2 --dist loadfile
# Without cached bytecode every process of the tests compiles every module anew.
unexport PYTHONDONTWRITEBYTECODE
PROTOS := $(wildcard proto/lodestream/inference/v1/*.proto)

.PHONY: help serve test check quick format lint types imports proto proto-check unit node openai-python bench gpu-smoke images readme parameters lock clean unit-newest stats soak hooks parts screenshot pacing

.DEFAULT_GOAL := help

help:  ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: $(VENV)/.serve  ## Set up, fetch the model, start both servers. ARGS="--help" says what else it takes.
	@$(BIN)/lodestream up $(ARGS)

test: check unit  ## Set up, check the code and run every test.

check: $(VENV)/.dev  ## Lint, types, import rules and the protocol: under a minute.
	@$(MAKE) --no-print-directory -j2 --output-sync lint types imports proto-check

quick: $(VENV)/.dev  ## The tests that need no model and are not slow, in two processes.
	$(BIN)/pytest -q $(PARALLEL) -m "not model and not slow" $(ARGS)

format: $(VENV)/.dev  ## Format the code.
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/hadolint Dockerfile deploy/images/*.Dockerfile

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports --no-cache

proto: $(VENV)/.dev  ## Generate the protocol modules.
	proto/generate.sh

proto-check: $(VENV)/.dev
	proto/check.sh

# In two processes, then what measures time in one; fails if either does. ARGS replaces all of that.
unit: $(VENV)/.dev  ## Every test; ARGS="tests/engines -k plan" runs some, in one process.
ifdef ARGS
	$(BIN)/pytest $(ARGS)
else
	@status=0; set -x; \
	$(BIN)/pytest -q $(PARALLEL) -m "not alone" || status=1; \
	$(BIN)/pytest -q -m alone || status=1; \
	exit $$status
endif

# Prints which interpreter it takes, or that there is none newer.
unit-newest: $(VENV)/.dev  ## The tests that need no model, on the newest Python that the machine has.
	@tests/newest_python.sh $(BIN)/python

# The default, "auto", is what every other target runs.
STREAM_TESTS := tests/transports/test_random_requests.py tests/transports/test_choices.py tests/transports/test_filter.py \
    tests/inference_service/rpc tests/rest_bridge/test_stream.py
pacing: $(VENV)/.dev  ## The tests of the stream contract with the stream interval off, always on, and random.
	@status=0; for pacing in off always random; do \
	    TEST_PACING=$$pacing $(BIN)/pytest -q $(PARALLEL) -m "not slow" $(STREAM_TESTS) $(ARGS) || status=1; \
	done; exit $$status

stats: $(VENV)/.dev  ## The structure of the code in figures: modules, functions, one request's way.
	@$(BIN)/python -m benchmarks.structure $(ARGS)

node: $(VENV)/.dev  ## Try the npm packages that callers use; needs Node 20.11 or newer, and npm.
	@tests/node/run.sh

openai-python: $(VENV)/.dev  ## Run openai-python's own tests against both servers; fetches their source.
	@$(BIN)/python -m tests.openai_python

bench: $(VENV)/.dev  ## Measure speed and memory against the targets; takes minutes, gates nothing.
	@$(BIN)/python -m benchmarks $(ARGS)

soak: $(VENV)/.dev  ## A mixed load for 20 minutes: does what the servers hold stay flat?
	@$(BIN)/python -m benchmarks soak $(ARGS)

gpu-smoke:  ## Where a GPU and TensorRT-LLM are: try everything on them, and write gpu-smoke.md to send back.
	@$(PYTHON) -m benchmarks.gpu_smoke --can-run
	@benchmarks/gpu_smoke/prepare.sh .venv-gpu $(PYTHON)
	@.venv-gpu/bin/python -m benchmarks.gpu_smoke $(ARGS)

images:  ## Build the container images, run them and ask them a question; needs docker, or buildah and root.
	@deploy/images/images.sh $(ARGS)

readme: $(VENV)/.dev  ## Renew the table of settings in the README.
	@$(BIN)/python -m tests.support.readme

parameters: $(VENV)/.dev  ## Renew docs/parameters.md and docs/structured-output.md.
	@$(BIN)/python -m tests.support.parameters
	@$(BIN)/python -m tests.support.structured_output

screenshot: $(VENV)/.dev  ## Renew the pictures in docs/images; needs Chromium and Prometheus.
	@$(BIN)/python -m tests.support.browser docs/images/playground.png
	@$(BIN)/python -m tests.support.dashboard docs/images

parts:  ## Install what some tests need from Debian: Prometheus, Redis, Chromium, PostgreSQL, Go; needs root.
	@tests/parts.sh

hooks: $(VENV)/.dev  ## Let git run the checks before each commit; needs pre-commit.
	@pre-commit install

lock:  ## Renew the lock files; needs uv.
	requirements/compile.sh

clean:  ## Remove what the targets above made inside the clone.
	rm -rf $(VENV) .venv-gpu .venv-newest tests/node/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "lodestream needs Python 3.11 or newer; set PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	    || { echo "python3 cannot make virtual environments here; on Debian: apt-get install python3-venv"; exit 1; }
	@touch $@

# The stamp of a set is newer than its lock file exactly when the set is installed.
$(VENV)/.serve: $(VENV)/.python requirements/serve.lock pyproject.toml
	@test -f $(VENV)/.dev || { echo "Installing into $(VENV) ..."; \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/serve.lock; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.python requirements/dev.lock pyproject.toml
	@echo "Installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@ $(VENV)/.serve
