# The two that matter:  make demo   make test
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Small matrices gain nothing from threads; workers are processes.
export OMP_NUM_THREADS ?= 1
# Compiled modules are kept: tests and commands start many processes.
unexport PYTHONDONTWRITEBYTECODE
export FLWR_TELEMETRY_ENABLED = 0
export FLWR_DISABLE_UPDATE_CHECK = 1

.PHONY: demo test check faults lint format docs numbers slow atlas clean help

demo: $(VENV)/.installed  ## install, then train FedAvg, FOMAML and local models once on real data
	$(BIN)/fedmaml demo

test: $(VENV)/.installed  ## install, then run the default tests
	$(BIN)/python -m pytest

slow: $(VENV)/.installed  ## published figures and full-length runs
	$(BIN)/python -m pytest -m slow --timeout 3600

faults: $(VENV)/.installed  ## every fault that a run must survive; with DEPLOYMENT=1 those of real processes, too
	$(BIN)/python -m tests.faults $(if $(DEPLOYMENT),--deployment)

atlas: $(VENV)/.installed  ## compare on all systems of the atlas (hours; goes on where it was) and write its pages
	$(BIN)/python -m benchmarks.atlas --jobs 2 --json docs/data/atlas.json
	$(BIN)/python -m benchmarks.atlas.closed_forms --json docs/data/closed_forms.json
	$(BIN)/python -m benchmarks.forgetting --json docs/data/forgetting.json
	$(BIN)/python -m benchmarks.families --json docs/data/families.json
	$(BIN)/python -m benchmarks.acting
	$(BIN)/python -m benchmarks.pictures
	$(BIN)/python -m benchmarks.write_docs

lint: $(VENV)/.installed  ## style, types and floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed  ## put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed  ## build the site: docs/_build/html/index.html
	$(BIN)/python -m sphinx -W -n --keep-going -q -b html docs docs/_build/html

numbers: $(VENV)/.installed  ## write the measured numbers of README and docs from docs/data
	$(BIN)/python -m benchmarks.write_docs

clean:  ## remove the environment and all runs
	rm -rf $(VENV) runs docs/_build docs/notebooks

help:
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*##/\t/'

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "fedmaml needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
