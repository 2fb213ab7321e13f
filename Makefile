# Every target sets itself up: a fresh machine needs only Python 3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?=
PYTEST_FLAGS ?=
DEMO_OUT ?= outputs/demo
BIN = $(VENV)/bin

comma := ,
TEST_EXTRAS = test$(if $(EXTRAS),$(comma)$(EXTRAS))

.PHONY: demo test lint format benchmark clean

# One stamp for each set of extras, so that a target installs only what it needs and only once.
$(VENV)/.installed-%: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".$(if $(filter base,$*),,[$*])"
	@touch "$@"

demo: $(VENV)/.installed-base
	$(BIN)/esr-lefuse demo --out_dir $(DEMO_OUT)

test: $(VENV)/.installed-$(TEST_EXTRAS)
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: $(VENV)/.installed-torch
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf $(VENV) build dist *.egg-info
