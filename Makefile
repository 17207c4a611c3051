# make run, make test: each makes what it needs first. Variables: HOST, PORT (where the studio listens), PYTHON (which makes .venv), SEEDS (of evidence), JOBS (of tests).
HOST ?= 127.0.0.1
PORT ?= 7860
PYTHON ?= python3
SEEDS ?= 0 1 2
JOBS ?= 2
PY := .venv/bin/python

.PHONY: help venv run check test installed lint docs bench evidence picture clean
.DEFAULT_GOAL := help

help: ## Say what there is
	@sed -n 's/^\([a-z]*\):.*## /make \1	/p' $(MAKEFILE_LIST)

venv: ## Make the environment of the studio and its tests (.venv); again only when requirements change
	@PYTHON=$(PYTHON) sh tools/venv.sh

run: venv ## Open the studio on http://HOST:PORT
	GRADIO_SERVER_NAME=$(HOST) GRADIO_SERVER_PORT=$(PORT) $(PY) app.py

check: venv ## For daily work: lint, then every test but the slow ones and those of browser and real adapters
	@$(MAKE) --no-print-directory lint
	$(PY) -m pytest -n $(JOBS) --dist loadfile -m "not slow and not browser and not real"

test: venv ## Run every test (fetching a Chromium if there is none), then lint
	$(PY) tests/chromium.py
	$(PY) -m pytest -n $(JOBS) --dist loadfile
	@$(MAKE) --no-print-directory lint

installed: ## Install the studio from nothing in a temporary environment and try every verb and the page there
	@PYTHON=$(PYTHON) sh tools/installed.sh

lint: venv ## Style, format, types and words
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m tools.prose

docs: ## Build the docs as a site, site/index.html, in an environment of their own (.venv-docs)
	@PYTHON=$(PYTHON) sh tools/venv.sh .venv-docs requirements-docs.txt
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --clean --quiet
	@echo "docs: site/index.html"

bench: venv ## Run every benchmark in bench/
	@set -e; for script in bench/[!_]*.py; do echo "== $$script"; PYTHONPATH=. $(PY) "$$script"; done

evidence: venv ## Test the papers' claims again on the embedded world: docs/explanation/evidence.md (what is measured already is kept)
	PYTHONPATH=. OMP_NUM_THREADS=1 $(PY) -m bench.evidence.seeds --seeds $(SEEDS) --jobs 2
	PYTHONPATH=. OMP_NUM_THREADS=1 $(PY) -m bench.evidence --seeds $(SEEDS) --jobs 2

picture: venv ## Draw the README's picture of the page anew
	PYTHONPATH=. $(PY) tools/page_picture.py

clean: ## Remove caches and build outputs; .venv stays
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist site *.egg-info
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
