# PYTHON makes the environment (3.10 to 3.12), VENV is where it lies: `make test PYTHON=python3.11 VENV=/scratch/venv`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup test test-all demo demo-seg mini-data lint format clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## make the environment (first time: compiles mmcv, about 10 minutes on 2 cores; then at once)
	@$(PYTHON) tools/setup/setup_env.py --venv "$(VENV)"

# --max-worker-restart 0: pytest-xdist 3.8 waits without end for the tests of a file whose process has died
test: setup  ## lint and run the tests
	@"$(BIN)/ruff" check --quiet .
	@OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -q --numprocesses auto --maxprocesses 4 --dist loadfile \
		--no-loadscope-reorder --max-worker-restart 0 tests

test-all: setup  ## the tests, with the slow ones that are left out of `make test`
	@OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -q --numprocesses auto --maxprocesses 4 --dist loadfile \
		--no-loadscope-reorder --max-worker-restart 0 -m "slow or not slow" tests

demo: setup  ## train, evaluate and draw a small detector on generated data, into work_dirs/demo
	@"$(BIN)/python" tools/demo.py

demo-seg: setup  ## the same with a small segmenter, into work_dirs/demo_segmentation
	@"$(BIN)/python" tools/demo.py segmentation

mini-data: setup  ## write the generated data sets, in COCO's and Cityscapes' layout
	@"$(BIN)/python" tools/make_mini_data.py coco
	@"$(BIN)/python" tools/make_mini_data.py cityscapes

lint: setup  ## check style and formatting
	@"$(BIN)/ruff" check .
	@"$(BIN)/ruff" format --check .

format: setup  ## mend style and formatting
	@"$(BIN)/ruff" check --fix .
	@"$(BIN)/ruff" format .

clean:  ## remove caches and build leftovers (not the environment, data or work_dirs)
	@rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	@find . -path "./$(VENV)" -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
