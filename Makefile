# Every target works from a fresh clone: it first makes .venv and installs into it what the target needs, once.
#
#   make demo     a robot environment paid by the embedded reward model: table, plots, videos, one HTML page
#   make test     the fast tests
#
# PYTHON=python3.12 chooses the interpreter that .venv is made with.

VENV := .venv
BIN := $(VENV)/bin

# Headless rendering through Mesa; only Linux has EGL.
ifeq ($(shell uname -s),Linux)
export MUJOCO_GL ?= egl
endif

.PHONY: help demo test test-all test-rlds check lint format constraints clean
.DEFAULT_GOAL := help

help:
	@echo "make demo         run the demonstration; results in outputs/demo"
	@echo "make test         run the fast tests"
	@echo "make test-all     run all tests, with the LIBERO simulator (620 MB)"
	@echo "make test-rlds    test the reader of RLDS datasets, with TensorFlow in an environment of its own (3 GB)"
	@echo "make check        formatting, lint, types and the fast tests"
	@echo "make format       format the code and fix what the linter can"
	@echo "make constraints  write constraints.txt from what is installed"
	@echo "make clean        remove .venv and caches"

# One stamp per set of extras: nothing is done until the project's requirements change.
DEMO := $(VENV)/installed-demo
DEV := $(VENV)/installed-dev
ALL := $(VENV)/installed-all

# TensorFlow is large and nothing else needs it.
RLDS := .venv-rlds/installed

$(DEMO): EXTRAS := metaworld
$(DEV): EXTRAS := metaworld,sb3,examples,train,minari,lerobot,agibot,ray,dev
$(ALL): EXTRAS := metaworld,libero,sb3,examples,train,int8,minari,lerobot,agibot,ray,dev
$(DEMO) $(DEV) $(ALL): pyproject.toml constraints.txt tools/setup.sh
	tools/setup.sh $(VENV) $(EXTRAS)
	@touch $@

demo: $(DEMO)
	$(BIN)/robometer-rl demo

test: $(DEV)
	$(BIN)/python -m pytest

test-all: $(ALL)
	$(BIN)/python -m pytest -m "slow or not slow"

$(RLDS): pyproject.toml constraints.txt tools/setup.sh
	tools/setup.sh .venv-rlds rlds,dev
	@touch $@

test-rlds: $(RLDS)
	.venv-rlds/bin/python -m pytest tests/formats/test_rlds.py

lint: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

check: lint test

format: $(DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Local version labels (+cpu) are dropped: they name a build of the same release.
constraints: $(ALL) $(RLDS)
	for bin in $(BIN) .venv-rlds/bin; do $$bin/pip freeze --exclude-editable; done | \
	    sed -E '/ @ |^#/d; s/\+[a-z0-9.]+$$//' | sort -fu > constraints.txt
	@touch $(DEMO) $(DEV) $(ALL) $(RLDS)

clean:
	rm -rf $(VENV) .venv-rlds build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
