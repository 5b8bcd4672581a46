# `make run` and `make test` are all that a newcomer needs. Both set themselves up.
PYTHON ?= python3
BIN := .venv/bin
export ANALYTICS_HOME ANALYTICS_CONFIG EXPORTS FORMAT PORT

.PHONY: run test ui bench check lint lock

run: ## load what is new, compute what is missing; EXPORTS=dir FORMAT=kissmetrics for your export
	@$(PYTHON) analytics_assets/install.py
	@$(BIN)/analytics-assets run

ui: ## Dagster's web server and daemon on loopback
	@$(PYTHON) analytics_assets/install.py
	@$(BIN)/analytics-assets ui

check: ## say what would be found in EXPORTS; writes nothing
	@$(PYTHON) analytics_assets/install.py
	@$(BIN)/analytics-assets check

test: ## lint, types, definitions and every test
	@$(PYTHON) analytics_assets/install.py --dev
	@$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest -n 2

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy analytics_assets
	$(BIN)/dg check defs

bench: ## measurements beside the alternatives, as ratios; ONLY="suite million" for some parts
	@$(PYTHON) analytics_assets/install.py --dev
	@$(BIN)/python -W ignore -m analytics_assets_tests.benchmarks $(ONLY)

lock: ## pin the newest allowed versions, with hashes and without hosts
	uv pip compile -q --universal --generate-hashes --no-header --no-annotate --python-version 3.11 pyproject.toml -o requirements.lock
	uv pip compile -q --universal --generate-hashes --no-header --no-annotate --python-version 3.11 pyproject.toml --extra dev -c requirements.lock -o requirements-dev.lock
	uv pip compile -q --universal --generate-hashes --no-header --no-annotate --python-version 3.11 pyproject.toml --extra postgres -c requirements-dev.lock -o requirements-postgres.lock
