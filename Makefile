# What people do with this project. Everything is installed into .venv; nothing needs a prompt or a password.
.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench soak pictures broker lock clean

PYTHON ?= python3
MINUTES ?= 30
SEED ?= 1
BIN := .venv/bin
LOCK := tests/requirements.txt
INSTALLED := .venv/installed
NEEDS := Counterpoint needs Python 3.11 or newer: install one, or say which with `make setup PYTHON=python3.12`.
NEEDS_VENV := This Python cannot make virtual environments: install it (Debian: apt-get install python3-venv) and try again.

help: ## say what there is
	@sed -n 's/^\([a-z]*\):[^#]*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

setup: $(INSTALLED) ## install everything into .venv (again only when the lock changed)

demo: setup ## watch a model learn from people's verdicts, on a real Kafka
	$(BIN)/counterpoint demo phishing

test: setup ## run all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: setup ## style, types, imports, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

bench: setup ## measure how fast it is: a table, and bench.json
	$(BIN)/python -m tests.benchmarks

soak: setup ## run everything under faults for MINUTES=30: a report, and soak.json
	$(BIN)/python -m tests.faults --plan long --minutes $(MINUTES) --seed $(SEED)

pictures: setup ## make the README's pictures of the desk anew, with Chromium
	COUNTERPOINT_TEST_PICTURES=tests/pictures $(BIN)/python -m pytest tests/e2e/test_browser.py -k picture

broker: setup ## run the embedded Kafka until Ctrl-C
	$(BIN)/counterpoint broker

COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras \
	--no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command 'make lock' --upgrade

lock: setup ## choose the newest allowed versions, for Python and for the broker
	$(COMPILE) pyproject.toml --extra dev --output-file $(LOCK)
	$(COMPILE) pyproject.toml --output-file deploy/requirements.txt
	$(COMPILE) --group build --output-file deploy/build-requirements.txt
	$(BIN)/python -m streams.jars

clean: ## remove what was installed and measured
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache bench.json soak.json demo-*.png

# The lock holds everything with its hash; then the project itself, without asking an index.
$(INSTALLED): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo '$(NEEDS)' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
		&& apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q python3-venv; } \
		|| { echo '$(NEEDS_VENV)' >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r $(LOCK)
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
