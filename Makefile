# Every target works from a fresh clone: it first makes .venv and installs into it what the target needs, once.
#
#   make demo     a robot environment paid by the embedded reward model: table, plots, videos, one HTML page
#   make test     the fast tests
#
# PYTHON=python3.12 chooses the interpreter that .venv is made with, WORKERS=2 how many processes run tests (by default
# one per core, as far as memory goes; 0 for none but the first, where a debugger works).

VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= auto

# Headless rendering through Mesa; only Linux has EGL.
ifeq ($(shell uname -s),Linux)
export MUJOCO_GL ?= egl
endif

.PHONY: help demo test test-all test-ui test-rlds test-lerobot check lint docs format constraints clean
.DEFAULT_GOAL := help

help:
	@echo "make demo         run the demonstration; results in outputs/demo"
	@echo "make test         run the fast tests"
	@echo "make test-all     run all tests, with the LIBERO simulator (620 MB), and in a browser (500 MB)"
	@echo "make test-ui      test the studio and pages in a browser alone, with Gradio and Playwright"
	@echo "make test-rlds    test the reader of RLDS datasets, with TensorFlow in an environment of its own (3 GB)"
	@echo "make test-lerobot test the LeRobot formats, models and wrappers beside LeRobot 0.6, on Python 3.12 (6 GB)"
	@echo "make check        formatting, lint, types, the documentation and the fast tests"
	@echo "make docs         build the documentation site in site/, and say which of its links lead nowhere"
	@echo "make format       format the code and fix what the linter can"
	@echo "make constraints  write constraints.txt and constraints-lerobot.txt from what is installed"
	@echo "make clean        remove .venv and caches"

# One stamp per set of extras: nothing is done until the project's requirements change.
DEMO := $(VENV)/installed-demo
DEV := $(VENV)/installed-dev
ALL := $(VENV)/installed-all

# The studio is looked at in a browser, which tools/setup.sh installs too where it may.
UI := $(VENV)/installed-ui

# TensorFlow is large and nothing else needs it.
RLDS := .venv-rlds/installed

# LeRobot needs Python 3.12 and older releases of torch, transformers and numpy.
LEROBOT := .venv-lerobot/installed

$(DEMO): EXTRAS := metaworld
$(DEV): EXTRAS := metaworld,adapt,sb3,examples,offline,train,minari,lerobot,agibot,ray,serve,tiles,docs,dev
$(ALL): EXTRAS := metaworld,adapt,libero,robosuite,foreign,sb3,examples,offline,train,int8,minari,lerobot,agibot,ray,serve,tiles,docs,dev
$(DEMO) $(DEV) $(ALL): pyproject.toml constraints.txt tools/setup.sh
	tools/setup.sh $(VENV) $(EXTRAS)
	@touch $@

demo: $(DEMO)
	$(BIN)/robometer-rl demo

# A file of tests is one worker's: what its tests share is made once.
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

test: $(DEV)
	$(PYTEST)

# Both sets of extras get along in one environment: constraints.txt has their versions.
test-all: $(ALL) $(UI)
	$(PYTEST) -m "slow or not slow"

$(UI): pyproject.toml constraints.txt tools/setup.sh
	tools/setup.sh $(VENV) ui,serve,train,hdf5,dev constraints.txt playwright
	@touch $@

test-ui: $(UI)
	$(PYTEST) -m "slow or not slow" tests/studio tests/report/test_component.py tests/report/test_recordings.py

$(RLDS): pyproject.toml constraints.txt tools/setup.sh
	tools/setup.sh .venv-rlds rlds,dev
	@touch $@

test-rlds: $(RLDS)
	.venv-rlds/bin/python -m pytest tests/formats/test_rlds.py

$(LEROBOT): pyproject.toml constraints-lerobot.txt tools/setup.sh
	PYTHON="$(or $(PYTHON),python3.12 python3.13)" tools/setup.sh .venv-lerobot lerobot,minari,sb3,train,dev \
	    constraints-lerobot.txt "lerobot[dataset,robometer]"
	@touch $@

# Whether LeRobot's own code reads what is written for it, and whether its versions give the recorded numbers.
test-lerobot: $(LEROBOT)
	.venv-lerobot/bin/python -m pytest tests/lerobot tests/formats tests/models tests/relabeling tests/wrappers

lint: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

check: lint docs test

# Not --quiet: warnings that are not said do not end a strict build.
docs: $(DEV)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Local version labels (+cpu) are dropped: they name a build of the same release. Libraries of CUDA, too: they are torch's.
FREEZE := pip freeze --exclude-editable
PINS := sed -E '/ @ |^\#|^(cuda|nvidia|triton)/d; s/\+[a-z0-9.]+$$//' | sort -fu
constraints: $(ALL) $(UI) $(RLDS) $(LEROBOT)
	for bin in $(BIN) .venv-rlds/bin; do $$bin/$(FREEZE); done | $(PINS) > constraints.txt
	.venv-lerobot/bin/$(FREEZE) | $(PINS) > constraints-lerobot.txt
	@touch $(DEMO) $(DEV) $(ALL) $(UI) $(RLDS) $(LEROBOT)

clean:
	rm -rf $(VENV) .venv-rlds .venv-lerobot site build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
