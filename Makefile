# make demo   set up, then the whole job on synthetic studies, ending with a report
# make test   set up, then the tests
# make check  lint and types

PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
BIN := $(VENV)/bin

.PHONY: demo test check lint types benchmark clean

demo: $(VENV)/.package
	$(BIN)/lumbar demo --folder $(DEMO)

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: lint types

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

benchmark: $(VENV)/.test
	$(BIN)/python -m pytest tests/benchmarks -s -o python_files='bench_*.py'

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.package: $(BIN)/python setup.py
	@echo "Installing the package and its dependencies into $(VENV) (about 6 GB, some minutes)"
	$(BIN)/python -m pip install --quiet -e .
	@touch $@

$(VENV)/.test: $(VENV)/.package setup.py
	@echo "Installing the test tools into $(VENV)"
	$(BIN)/python -m pip install --quiet -e '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info
