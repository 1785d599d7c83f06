VENV ?= .venv
PYTHON ?= python3
READY := $(VENV)/.ready

.PHONY: setup quickstart test test-lowest test-python peers lint format clean

setup: $(READY)

# torch first and alone: its pinned version must be the one that everything else is resolved against.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

quickstart: setup
	$(VENV)/bin/vistune quickstart --out quickstart

test: setup
	$(VENV)/bin/python -m pytest

# The fast tests at the lowest versions that pyproject.toml allows. LOWEST: what to run, e.g. one file.
LOWEST ?= tests/unit
test-lowest:
	$(PYTHON) -m venv .venvs/lowest
	.venvs/lowest/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-lowest.txt torch
	.venvs/lowest/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-lowest.txt \
		--editable '.[audit,curate,lora,low-memory,serve]' pytest pytest-timeout hypothesis tensorboard
	.venvs/lowest/bin/python -m pytest $(LOWEST)

# All that needs no torch, on each other Python that is installed; what needs it is skipped and listed.
PYTHONS ?= 3.10 3.12 3.13
TORCHLESS ?= tests/unit
test-python: setup
	$(VENV)/bin/python tools/torchless.py > .venvs-requirements.txt
	for version in $(PYTHONS); do \
		found=; \
		for python in python$$version $$HOME/.pyenv/versions/$$version.*/bin/python; do \
			if $$python -c '' 2>/dev/null; then found=$$python; break; fi; \
		done; \
		if [ -z "$$found" ]; then echo "python$$version: not installed, skipped"; continue; fi; \
		$$found -m venv .venvs/$$version && \
		.venvs/$$version/bin/python -m pip install --quiet --disable-pip-version-check -r .venvs-requirements.txt && \
		.venvs/$$version/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable . && \
		.venvs/$$version/bin/python -m pytest $(TORCHLESS) || exit 1; \
	done

# TRL, which benchmarks/train_step.py measures us against, apart from our own environment.
PEERS := .venvs/trl/.ready
peers: $(PEERS)

# torch first and alone: its pinned version must be the one that everything else is resolved against.
$(PEERS): constraints-peers.txt
	$(PYTHON) -m venv .venvs/trl
	.venvs/trl/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-peers.txt torch
	.venvs/trl/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-peers.txt \
		trl pillow
	touch $(PEERS)

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest tests/unit/test_imports.py

format: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) .venvs .venvs-requirements.txt quickstart
