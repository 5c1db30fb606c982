PYTHON ?= python3
BIN := .venv/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e

.PHONY: demo test lint clean

demo: .venv/demo ## train a small classifier on embedded data, guard it, show what it flags
	$(BIN)/neroli demo

test: .venv/dev ## run all tests; those on real data are skipped where it is absent
	$(BIN)/python -m pytest -rs -n logical --dist loadfile --no-loadscope-reorder

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) .
	touch $@

.venv/dev: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) ".[dev]"
	touch $@ .venv/demo

clean:
	rm -rf .venv demo-out
