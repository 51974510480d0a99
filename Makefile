PYTHON ?= python3
VENV ?= .venv
LOWEST ?= .venv-lowest
BIN := $(VENV)/bin
PYTEST := pytest -n auto --maxprocesses 4
DEMO_OUTPUT ?= output/demo
EVIDENCE_OUTPUT ?= output/evidence-small

SITE ?= output/site

.PHONY: demo evidence-small test test-all test-lowest docs lint clean

# an environment with one of the extras of setup.cfg: a demo needs less than the tests
$(VENV)/installed-%: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

demo: $(VENV)/installed-demo
	$(BIN)/python -m benchmarks.demo --output $(DEMO_OUTPUT)

evidence-small: $(VENV)/installed-bench
	$(BIN)/python -m benchmarks.suite.digits_folder $(EVIDENCE_OUTPUT)/digits
	$(BIN)/python -m benchmarks.evidence --recipe digits --data-dir $(EVIDENCE_OUTPUT)/digits --seeds 0 --images 400 \
		--output $(EVIDENCE_OUTPUT)/runs --results $(EVIDENCE_OUTPUT)/results --report $(EVIDENCE_OUTPUT)/report

test: $(VENV)/installed-dev
	$(BIN)/python -m $(PYTEST)

test-all: $(VENV)/installed-dev lint docs
	$(BIN)/python -m $(PYTEST) -m 'slow or not slow'

# the lowest versions that setup.cfg allows; needs a Python that has them (3.10 or 3.11)
$(LOWEST)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(LOWEST)
	sed -n 's/^ *\([a-z-]*\)>=\([0-9.]*\)\(,.*\)*$$/\1==\2/p' setup.cfg | sort -u > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/constraints.txt --editable '.[dev]'
	touch $@

test-lowest: $(LOWEST)/installed
	$(LOWEST)/bin/python -m $(PYTEST)

docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet --site-dir $(abspath $(SITE))

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV) $(LOWEST) build *.egg-info output
