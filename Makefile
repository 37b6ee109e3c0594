# Two commands do everything: `make serve` and `make test`. Both need only Python 3.10+ and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROTOS := $(wildcard proto/lodestream/inference/v1/*.proto)

.PHONY: serve test check format lint types arrows proto proto-check unit bench lock clean

serve: $(VENV)/.serve
	@$(BIN)/lodestream up $(ARGS)

test: check unit

check: lint types arrows proto-check

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	    || { echo "lodestream needs Python 3.10 or newer; set PYTHON=/path/to/python3"; exit 1; }
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
