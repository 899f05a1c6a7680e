# Everything a person or CI does here. `make help` lists it.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
m ?= change

.DEFAULT_GOAL := help
.PHONY: help install install-dev run migrate migration test test-service test-stack faults check format bench bench-pipeline simulations demo pipeline env up down clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

$(VENV)/run.stamp: requirements/run.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; set PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing what the service needs (once; this takes a minute)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.txt
	@touch $@

$(VENV)/dev.stamp: requirements/dev.txt $(VENV)/run.stamp
	@echo "installing what tests and checks need (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

install: $(VENV)/run.stamp ## Set up what the service needs

install-dev: $(VENV)/dev.stamp ## Set up what tests, checks and benchmarks need

run: install ## Start the whole platform on embedded parts: PostgreSQL, Valkey, ClickHouse, API on port 8000
	@exec $(BIN)/python -m app

migrate: install ## Migrate the PostgreSQL that DATABASE_URL names
	@$(BIN)/alembic upgrade head

migration: install ## Write a new migration from the models: make migration m="what changes"
	@$(BIN)/alembic revision --autogenerate -m "$(m)"

test: install-dev ## Run all tests; those that need a program which is missing are skipped by name
	@$(BIN)/python -m pytest -n 2 --dist loadgroup -q

test-service: install-dev ## Run the tests of the service alone
	@$(BIN)/python -m pytest -n 2 --dist loadgroup -q --ignore tests/pipeline/kafka --ignore tests/containers

test-stack: install-dev ## Run the tests of Kafka, Debezium and the containers (Java, Maven; Go, buildah, Prometheus, root)
	@$(BIN)/python -m pytest -n 2 --dist loadgroup -q tests/pipeline/kafka tests/containers

faults: install-dev ## Kill every program at random while clients write, for FAULT_SECONDS (600); FAULT_SEED repeats one
	@FAULT_SECONDS=$${FAULT_SECONDS:-600} $(BIN)/python -m pytest -q -s tests/pipeline/kafka/test_fault_matrix.py

check: install-dev ## Format, lint, types, layers; needs no server
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: install-dev ## Format and fix what can be fixed
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

demo: install-dev ## Drive the running service as a shop would, and judge its results
	@$(BIN)/python -m demo

bench: install-dev ## Measure, each figure as a ratio to a raw probe in the same run
	@$(BIN)/python -m benchmarks.service

bench-pipeline: install-dev ## Measure the way from the outbox to ClickHouse in the same manner (Java 17, Maven)
	@$(BIN)/python -m benchmarks.pipeline

simulations: install-dev ## Simulate every statistical method, for a quarter of an hour, and write the tables into docs/statistics.md
	@$(BIN)/python -m benchmarks.simulations --write docs/statistics.md

pipeline: install ## Start PostgreSQL, Kafka, Connect and Debezium on this machine, without containers (Java 17, Maven)
	@exec $(BIN)/python -m app.workers.local_pipeline

env: ## Write .env with random secrets for the container stack
	@deploy/make_env.sh

up: ## Start the container stack: every server, the API on port 8000, Grafana on 3000
	@docker compose up --detach --build --wait
	@docker compose logs --no-log-prefix api | grep "first administrator's token" || true

down: ## Stop the container stack; its data stays in volumes
	@docker compose down

clean: ## Remove what can be made again (not the data folder)
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
