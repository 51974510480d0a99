PYTHON ?= python3
VENV ?= .venv
LOWEST ?= .venv-lowest
PYTEST := pytest -n auto --maxprocesses 4
DEMO_OUTPUT ?= output/demo
EVIDENCE_OUTPUT ?= output/evidence-small

SITE ?= output/site

.PHONY: demo evidence-small test test-all test-lowest docs lint clean

# $(call python,LISTS): a Python with these lists of packages of setup.cfg; a demo needs less than the tests
python = python=$$(.ci/python $(1)) && "$$python"
export PYTHON VENV
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))

demo:
	$(call python,install_requires demo) -m benchmarks.demo --output $(DEMO_OUTPUT)

evidence-small:
	$(call python,install_requires bench) -m benchmarks.train --recipe digits --output $(EVIDENCE_OUTPUT)/runs
	$(call python,install_requires bench) -m benchmarks.evaluate '$(EVIDENCE_OUTPUT)/runs/digits/*-0' \
		--data-dir $(EVIDENCE_OUTPUT)/runs/data/digits --measures accuracy robustness outliers embeddings \
		--outliers noise textures photos --images 400 --unseen $(EVIDENCE_OUTPUT)/runs/data/digits/unseen \
		--results $(EVIDENCE_OUTPUT)/results
	$(call python,install_requires bench) -m benchmarks.report $(EVIDENCE_OUTPUT)/results --figures \
		--output $(EVIDENCE_OUTPUT)/report

# pytest has a process per core
test test-all test-lowest: export OMP_NUM_THREADS ?= 1
test:
	$(call python,install_requires dev) -m $(PYTEST)

test-all: lint docs
	$(call python,install_requires dev) -m $(PYTEST) -m 'slow or not slow'

# the lowest versions that setup.cfg allows, and loss, head and drop-in with a timm that is older still; needs a Python
# that has them (3.10 or 3.11)
OLDER_TIMM := 1.0.23
WITH_OLDER_TIMM := $(addprefix tests/,properties/test_properties.py test_drop_in.py test_embeddings.py \
	test_functional.py test_head.py test_loss.py test_picture.py test_rows.py test_sampling.py)
$(LOWEST)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(LOWEST)
	sed -n 's/^ *\([a-z-]*\)>=\([0-9.]*\)\(,.*\)*$$/\1==\2/p' setup.cfg | sort -u > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/constraints.txt --editable '.[dev]'
	$(LOWEST)/bin/python -m pip install --quiet --no-deps --target $(LOWEST)/older timm==$(OLDER_TIMM)
	touch $@

test-lowest: $(LOWEST)/installed
	$(LOWEST)/bin/python -m $(PYTEST)
	PYTHONPATH=$(abspath $(LOWEST)/older):$(PYTHONPATH) $(LOWEST)/bin/python -m $(PYTEST) $(WITH_OLDER_TIMM) \
		-k 'not coat_lite'  # which does not tell its class token there, and so is refused

docs: export NO_MKDOCS_2_WARNING := 1
docs:
	$(call python,docs) -m mkdocs build --strict --quiet --site-dir $(abspath $(SITE))

lint:
	$(call python,install_requires dev) -m ruff check .

clean:
	rm -rf $(VENV) $(LOWEST) build *.egg-info output
