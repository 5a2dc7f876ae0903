# make run    create .venv, install the pinned dependencies, train the default agent on the default task
# make test   the same set-up with the tools and all optional environments, then all tests, in two processes
# make test-extras   the same with what make test does without, and the tests that need it
# make faults the same set-up, then every fault a run is meant to survive, and a table of what became of it (half an hour)
# make check  formatting, lint, types, spelling, tests: what a change must pass
# make lint   the same without the tests
# make docs   the pages of docs/ and the API as a site in site/, its links checked

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: run test test-extras faults check lint docs

run: $(VENV)/.installed
	$(BIN)/python run.py --backbone s4wm $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

test-extras: $(VENV)/.installed-extras
	$(BIN)/python -m pytest -m extras $(ARGS)

faults: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --faults $(ARGS)

check: lint test

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The stamps are newer than the requirements they were installed from, so a second call installs nothing.
$(VENV)/.installed: requirements.txt
	.ci/setup $(VENV) requirements.txt $(PYTHON)
	touch $@

$(VENV)/.installed-dev: requirements.txt requirements-dev.txt
	.ci/setup $(VENV) requirements-dev.txt $(PYTHON)
	touch $(VENV)/.installed $@

$(VENV)/.installed-extras: requirements.txt requirements-dev.txt requirements-extras.txt
	.ci/setup $(VENV) requirements-extras.txt $(PYTHON)
	touch $(VENV)/.installed $(VENV)/.installed-dev $@

$(VENV)/.installed-docs: requirements.txt requirements-docs.txt
	.ci/setup $(VENV) requirements-docs.txt $(PYTHON)
	touch $(VENV)/.installed $@
