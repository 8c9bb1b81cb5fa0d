# `make demo` and `make test` need Python >= 3.11, git and make; uv is installed into .uv/ where it is missing.
PYTHON ?= python3
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
RUN := .venv/bin/python -m
# Test processes side by side, a thread each.
WORKERS ?= 2

.PHONY: demo test lint types settings setup clean

demo: setup
	$(RUN) segrefinery demo -o runs/demo

test: setup
	OMP_NUM_THREADS=1 $(RUN) pytest --numprocesses $(WORKERS) --dist loadfile

lint: setup
	$(RUN) ruff check .
	$(RUN) ruff format --check .

types: setup
	$(RUN) pyright

settings: setup
	.venv/bin/python docs/write_settings.py

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	@command -v $(UV) >/dev/null || { $(PYTHON) -m venv .uv && .uv/bin/python -m pip install --quiet uv; }
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv
	$(UV) pip install --quiet --python .venv/bin/python --constraint constraints.txt --editable . --group dev
	@touch $@

clean:
	rm -rf .venv .uv .pytest_cache .ruff_cache
