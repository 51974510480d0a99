PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_OUTPUT ?= output/demo

.PHONY: demo test test-all lint clean

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/python -m benchmarks.demo --output $(DEMO_OUTPUT)

test: $(VENV)/installed
	$(BIN)/python -m pytest

test-all: $(VENV)/installed lint
	$(BIN)/python -m pytest -m 'slow or not slow'

lint: $(VENV)/installed
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV) build *.egg-info output
