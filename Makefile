# Everything a newcomer needs: `make quickstart` and `make test` set up .venv by themselves, once.
# Needs make and Python 3.11 or newer with its venv module.

PYTHON ?= $(shell for candidate in python3 python3.13 python3.12 python3.11; do \
	"$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$candidate"; break; }; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# An open end would take the newest CUDA build from the default registry on every machine.
TORCH := torch>=2.11,<2.14
CPU_INDEX := https://download.pytorch.org/whl/cpu

.PHONY: help .venv quickstart test lint bench clean
.DEFAULT_GOAL := help

help:
	@echo "make quickstart   train a small model through every stage and write its report (minutes on 2 CPU cores)"
	@echo "make test         run the tests"
	@echo "make lint         check style, format and import floors"
	@echo "make bench        measure this machine against the peers (installs them first)"
	@echo "make clean        remove caches; runs/ and .venv stay"

.venv: .venv/.ready

# The stamp comes last, so that an interrupted set-up is taken up again by the next make.
.venv/.ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "afterbase needs Python 3.11 or newer, and $$(python3 --version 2>&1 || echo 'no python3') was found; \
	install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PIP) --version >/dev/null 2>&1 || { echo "setting up .venv (once, a minute or two)"; $(PYTHON) -m venv --clear .venv; } || \
	{ echo "$(PYTHON) cannot make a virtual environment; install its venv module (on Debian: apt install python3-venv)" >&2; exit 1; }
	@$(BIN)/python -c 'import torch' 2>/dev/null || $(MAKE) --no-print-directory torch
	@$(PIP) install --quiet --editable ".[dev$$(nvidia-smi -L >/dev/null 2>&1 || echo ,interpreter)]"
	@touch $@

# Without an NVIDIA GPU the default build of torch is gigabytes of CUDA that nothing would use.
.PHONY: torch
torch:
	@if nvidia-smi -L >/dev/null 2>&1; then \
		echo "an NVIDIA GPU is here: installing the default build of torch"; \
		$(PIP) install --quiet '$(TORCH)'; \
	else \
		echo "no NVIDIA GPU is here: installing the CPU build of torch"; \
		$(PIP) install --quiet --retries 1 --timeout 8 --index-url $(CPU_INDEX) '$(TORCH)' >/dev/null 2>&1 || { \
			echo "$(CPU_INDEX) cannot be used from here: taking torch from the default registry"; \
			$(PIP) install --quiet '$(TORCH)'; }; \
	fi

quickstart: .venv
	@$(BIN)/afterbase pipeline recipes/pipelines/quickstart.toml

test: .venv
	@$(BIN)/python -m pytest --numprocesses auto --dist loadscope

lint: .venv
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

bench: .venv
	@$(PIP) install --quiet --editable '.[bench]'
	@for name in cpu sandbox verifiers; do echo "== $$name"; $(BIN)/python "benchmarks/$$name.py" || exit 1; done

clean:
	@rm -rf build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +
