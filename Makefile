# make demo   set up, then the whole job on synthetic patients, ending with graded studies
# make demo-full  the same with all 25 targets of the baseline
# make test   set up, then the tests
# make check  lint and types
# make gpu        set up, then both recipes on this machine's GPU for some minutes, as a table
# make rehearse    set up, then both recipes' kernels as Kaggle would play them, with the hidden test set
# make scale       every stage with 200 and with 1,975 tiny studies (20 minutes): seconds, memory, open files, disk
# make real DATA=copies    what the models in the box make of two public sets of real slices (docs/real_mri.md)
# make models DATA=copies  trains the models in the box again, resumable
# make test-image  the tests again, with the versions of Kaggle's image (another 8 GB)

PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
BIN := $(VENV)/bin

# Kaggle's image has Python 3.12; without one the tests run with its libraries all the same.
IMAGE_VENV ?= .venv-image
IMAGE_PYTHON ?= $(shell python3.12 -c 'import sys; print(sys.executable)' 2>/dev/null || echo $(PYTHON))
IMAGE_BIN := $(IMAGE_VENV)/bin

.PHONY: demo demo-full test check lint types benchmark gpu scale real models rehearse test-image clean

demo: $(VENV)/.package
	$(BIN)/lumbar demo --folder $(DEMO)

demo-full: $(VENV)/.package
	$(BIN)/lumbar demo --folder $(DEMO) --full

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: lint types

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

benchmark: $(VENV)/.test
	$(BIN)/python -m pytest tests/benchmarks -s -o python_files='bench_*.py'

gpu: $(VENV)/.package
	$(BIN)/python -m tests.gpu.measure

scale: $(VENV)/.test
	$(BIN)/python -m tests.scale

rehearse: $(VENV)/.test
	$(BIN)/lumbar rehearse --variant all
	$(BIN)/lumbar rehearse --recipe two-stage --variant hidden --folder rehearsal-two-stage

real: $(VENV)/.test
	@test -d "$(DATA)" || { echo "make real: give the folder with copies of the sets as DATA=…, see docs/real_mri.md"; exit 2; }
	$(BIN)/python -m tests.real.measure $(DATA)

models: $(VENV)/.test
	@test -d "$(DATA)" || { echo "make models: give the folder with copies of the sets as DATA=…, see docs/real_mri.md"; exit 2; }
	$(BIN)/python -m tests.real.models $(DATA) lumbar_kaggle/models/two-stage

test-image: $(IMAGE_VENV)/.image
	$(IMAGE_BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

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

$(IMAGE_VENV)/.image: setup.py
	@echo "Installing the package with the versions of Kaggle's image into $(IMAGE_VENV) (about 8 GB, some minutes)"
	$(IMAGE_PYTHON) -m venv $(IMAGE_VENV)
	$(IMAGE_BIN)/python -m pip install --quiet --upgrade pip
	$(IMAGE_BIN)/python -m pip install --quiet -e '.[test,image]'
	@touch $@

clean:
	rm -rf $(VENV) $(IMAGE_VENV) $(DEMO) rehearsal rehearsal-two-stage build dist *.egg-info
