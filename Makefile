# Two commands do all: `make demo` and `make test`. Both build what they need in .venv/.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell command -v python3.11 || command -v python3)

# Bytecode makes every import 2 to 4 times faster; some machines switch it off.
unexport PYTHONDONTWRITEBYTECODE
# Nothing here calls home (docs/decisions/0006-no-calls-home.md).
export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true
export GX_ANALYTICS_ENABLED := false

.PHONY: help demo demo-drift up down status test test-unit test-integration test-services lint docs format lock clean bench bench-models bench-gates bench-serving bench-drift bench-scale

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.run: requirements.lock requirements-bootstrap.lock pyproject.toml infra/install.sh
	@bash infra/install.sh "$(PYTHON)" $(VENV) requirements.lock
	@touch $@

$(VENV)/.dev: requirements-dev.lock requirements-bootstrap.lock pyproject.toml infra/install.sh
	@bash infra/install.sh "$(PYTHON)" $(VENV) requirements-dev.lock
	@touch $@ $(VENV)/.run

demo: $(VENV)/.run ## From a fresh clone to a promoted model that answers requests; leaves the pages running
	@$(BIN)/headrace demo

demo-drift: $(VENV)/.run ## After demo: the world changes, monitoring notices, a training proves better, the server follows
	@$(BIN)/headrace demo-drift

up: $(VENV)/.run ## Start Airflow, MLflow and the server
	@$(BIN)/headrace up

down: $(VENV)/.run ## Stop all of them
	@$(BIN)/headrace down

status: $(VENV)/.run ## One look: is all well?
	@$(BIN)/headrace status

lint: $(VENV)/.dev docs ## ruff, mypy, import contracts, links of the documents
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

docs: $(VENV)/.dev ## The documents as a site, build/site/index.html, with the reference made from the code
	@$(BIN)/python -m docs.site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -f build/mkdocs.yml

format: $(VENV)/.dev ## Rewrite the code in the one style
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

test-unit: $(VENV)/.dev ## Fast tests, no services, under a minute
	$(BIN)/pytest -q -n auto --dist loadfile -m "not integration and not e2e"

test-integration: $(VENV)/.dev ## Tests with the real parts
	$(BIN)/pytest -q -m integration

test-services: $(VENV)/.dev ## Those that matter there again, with PostgreSQL, Redis and S3 instead of files
	HEADRACE_TEST_PROFILE=services $(BIN)/pytest -q -m "integration and services"

test: lint ## Everything: lint, unit, integration, end to end
	$(BIN)/pytest -q -n auto --dist loadfile -m "not integration and not e2e"
	$(BIN)/pytest -q -m integration
	HEADRACE_TEST_PROFILE=services $(BIN)/pytest -q -m "integration and services"
	$(BIN)/pytest -q -m e2e

bench: bench-models ## The same as bench-models

bench-models: $(VENV)/.run ## Every model on real telemetry, one table: make bench-models DATA=folder
	@[ -n "$(DATA)" ] || { echo "Say where the real telemetry is: make bench-models DATA=folder"; exit 2; }
	$(BIN)/python -m benchmarks.models.report --data "$(DATA)"

bench-gates: $(VENV)/.dev ## How often the gate errs, in worlds where the truth is known
	$(BIN)/python -m benchmarks.gates.report

bench-serving: $(VENV)/.dev ## The server beside its peers, in one run; wants a quiet machine
	$(BIN)/python -m benchmarks.serving.report

bench-drift: $(VENV)/.dev ## How often drift is seen where there is none, and how soon where there is
	$(BIN)/python -m benchmarks.drift.report

bench-scale: $(VENV)/.dev ## What a row costs as data grow, beside Feast's own stores; hours, on a quiet machine
	$(BIN)/python -m benchmarks.scale.report

lock: $(VENV)/.dev ## Compile the lock files anew
	@bash infra/lock.sh $(BIN)/uv

clean: ## Remove the environment and all state
	@[ ! -x $(BIN)/headrace ] || $(BIN)/headrace down
	rm -rf $(VENV) .headrace
