# One vocabulary for people, hooks and CI. `make help` lists the commands.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
export UV_PYTHON_DOWNLOADS := never
export PATH := $(CURDIR)/$(BIN):$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
export FEAST_USAGE := False
export GX_ANALYTICS_ENABLED := false
export SCARF_ANALYTICS := false
export AIRFLOW__USAGE_DATA_COLLECTION__ENABLED := False
.DEFAULT_GOAL := help
.PHONY: help setup run up down test test-deploy bench format check docs clean lock screenshots

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(STAMP): requirements.txt requirements-dev.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@if command -v uv >/dev/null; then uv=uv; else $(BIN)/python -m pip install --quiet 'uv>=0.9' && uv=$(BIN)/uv; fi; \
	  export VIRTUAL_ENV=$(CURDIR)/$(VENV); \
	  echo "setting up $(VENV) (once)"; \
	  $$uv pip install --quiet --require-hashes -r requirements.txt -r requirements-dev.txt && \
	  $$uv pip install --quiet --no-deps --editable .
	@touch $@

setup: $(STAMP) ## install what is locked into .venv (the other commands do it by themselves)

lock: $(STAMP) ## resolve requirements*.in again, for Python 3.11 to 3.13
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url requirements.in -o requirements.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url requirements-dev.in -o requirements-dev.txt

run: $(STAMP) ## history, first champion and two nights through Airflow, on real data; prints what came of it
	@$(BIN)/python -m pipelines.demo run

up: $(STAMP) ## start Airflow and MLflow and leave them running
	@$(BIN)/python -m pipelines.demo up

down: $(STAMP) ## stop what `make up` started
	@$(BIN)/python -m pipelines.demo down

screenshots: $(STAMP) ## take the pictures of the README again, after a run of its own (needs Debian's chromium)
	@SCREENSHOT_FOLDER=docs/screenshots $(BIN)/python -m pytest -q -m browser tests/browser
