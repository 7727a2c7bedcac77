# Set-up, tests and demos. `make` alone lists the targets. PYTHON=python3.12 chooses the interpreter.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
PRETRAINED := work_dirs/demo/mae_pretrain/epoch_40.pth
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
# One process for each core, four at most. OpenMP's threads must not spin while others work.
PYTEST := $(PY) -m pytest --numprocesses=$(shell n=$$(nproc); echo $$((n < 4 ? n : 4))) --dist=loadfile
SUITABLE := import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))

# The interpreter: PYTHON if given, else the one .venv already has, else the first suitable one on the PATH.
BASE := $(shell for python in $(or $(PYTHON),$(wildcard $(PY)) python3 python3.11 python3.12 python3.10); do \
	$$python -c '$(SUITABLE)' 2>/dev/null && { command -v $$python; break; }; done)
# One stamp per state of what is installed; the same state is never installed twice.
STATE := $(shell { cat setup.py constraints.txt Makefile tools/build_mmcv.py; echo $(CURDIR); \
	$(or $(BASE),true) --version; } | sha256sum | cut -c1-16)
STAMP := $(VENV)/installed-$(STATE)

.PHONY: help install doctor test test-unit test-all lint docs clean demo-data demo demo-classification demo-detection demo-segmentation

help: ## this list
	@echo 'mae_mm: masked-autoencoder pre-training for OpenMMLab. Two commands do everything:'
	echo '  make demo    sets up, makes demo data, pre-trains on it'
	echo '  make test    sets up, runs the tests'
	echo
	grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' \
		| awk -F'|' '{printf "  make %-20s %s\n", $$1, $$2}'

install: $(STAMP) ## .venv with the pinned set, mmcv built once per machine, the package editable
	@$(if $(filter install,$(MAKECMDGOALS)),echo 'install: done. Use it: source $(VENV)/bin/activate',:)

$(STAMP):
	@if [ -z '$(BASE)' ]; then
		echo "mae_mm needs Python 3.10, 3.11 or 3.12 with venv; '$(or $(PYTHON),python3)' is: $$($(or $(PYTHON),python3) --version 2>&1 || true)"
		echo 'Install one (Debian: apt-get install python3 python3-venv python3-dev), or name it: make install PYTHON=/path/to/python3.11'
		exit 1
	fi >&2
	version=$$('$(BASE)' -c 'import sys; print("%d.%d" % sys.version_info[:2])')
	if [ -e $(PY) ] && ! $(PY) -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$$version')"; then
		echo "install: .venv is of another Python; replacing it by one of $$version"
		rm -rf $(VENV)
	fi
	rm -f $(VENV)/installed-*
	echo "install 1/4: .venv with Python $$version"
	[ -e $(PY) ] || '$(BASE)' -m venv $(VENV)
	echo 'install 2/4: pinned packages (torch is large: about 5 GB the first time)'
	$(PIP) install -q -c constraints.txt setuptools wheel ninja psutil
	$(PIP) install -c constraints.txt --no-build-isolation -e '.[all,dev]'
	echo 'install 3/4: mmcv with its operators'
	$(PY) tools/build_mmcv.py
	echo 'install 4/4: doctor'
	$(PY) -m mae_mm.doctor
	touch $@

doctor: install ## what is installed, what is broken, how to fix it
	@$(PY) -m mae_mm.doctor

test: install ## all tests but the slow ones, under 8 minutes on 2 cores
	@$(PYTEST)

test-unit: install ## tests of single functions and classes, under 3 minutes on 2 cores
	@$(PYTEST) -m 'not slow and not integration'

test-all: install ## the slow tests too
	@$(PYTEST) -m 'slow or not slow'

lint: install ## ruff
	@$(PY) -m ruff check .

docs: install ## the documentation site, in work_dirs/site; broken links and references fail
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

clean: ## remove caches and builds; .venv, data/ and work_dirs/ stay
	@rm -rf build dist .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# ---- Demos: make_demo_data.py makes nothing twice. Add demo-<task>: demo-data here, and to .PHONY. ----

demo-data: install
	@$(PY) tools/make_demo_data.py --out data/demo

demo: demo-data ## the main job: pre-train on generated images, about 4 minutes on 2 cores; continues where it was stopped
	@$(PY) tools/train.py configs/demo/mae_pretrain.py --resume

demo-classification: demo-data ## few-label classification, MAE start beside random start; PRETRAINED=CHECKPOINT
	@$(PY) tools/transfer.py '$(PRETRAINED)' --suite $@

demo-detection: demo-data ## Mask R-CNN, MAE start beside random start; PRETRAINED=CHECKPOINT
	@$(PY) tools/transfer.py '$(PRETRAINED)' --suite $@

demo-segmentation: demo-data ## UperNet on labelled scenes, MAE start beside random start; PRETRAINED=CHECKPOINT
	@$(PY) tools/transfer.py '$(PRETRAINED)' --suite $@
