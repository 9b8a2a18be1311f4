# Every target makes its own virtual environment first; nothing needs to be installed by hand but Python 3.11+.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install demo test test-all bench docs lint schemas clean

help:
	@echo "make install   virtual environment in $(VENV) with everything"
	@echo "make demo      mock survey to candidates and an HTML report in ./demo"
	@echo "make test      the tests that take minutes together (test-all: every test)"
	@echo "make bench     benchmarks beside their peers; ONLY=name for one; writes build/bench.json"
	@echo "make docs      HTML documentation in build/docs, warnings are errors"
	@echo "make lint      ruff, mypy, import-linter, schemas"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"astrid_dist needs Python 3.11 or newer, this is {sys.version.split()[0]}; try make PYTHON=python3.11")'
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[simulate,train,alerts,label,dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/astrid demo demo

test: $(STAMP)
	$(BIN)/python -m pytest -m "not slow"

test-all: $(STAMP)
	$(BIN)/python -m pytest

bench: $(STAMP)
	$(BIN)/python -m tests.benchmarks.run $(ONLY)

docs: $(STAMP)
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs
	@echo "documentation: build/docs/index.html"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m astrid_dist.stages.schemas --check schemas

schemas: $(STAMP)
	$(BIN)/python -m astrid_dist.stages.schemas schemas

clean:
	rm -rf build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
