# One vocabulary for people, hooks and CI. `make help` lists the commands.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
DEPLOY_STAMP := $(VENV)/.deploy
export UV_PYTHON_DOWNLOADS := never
export PATH := $(CURDIR)/$(BIN):$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
export FEAST_USAGE := False
export GX_ANALYTICS_ENABLED := false
export SCARF_ANALYTICS := false
export AIRFLOW__USAGE_DATA_COLLECTION__ENABLED := False
# Tests wait for servers half of their time, so one more works than there are cores; each takes up to 2.5 GiB.
WORKERS := $(shell workers=$$(( $$(nproc) + 1 )); echo $$(( workers < 4 ? workers : 4 )))
.DEFAULT_GOAL := help
.PHONY: help setup lock run up down drill screenshots test test-deploy test-browser test-stack test-image bench sbom reliability format check docs clean

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
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url requirements-deploy.in -o requirements-deploy.txt

run: $(STAMP) ## history, first champion and two nights through Airflow, on real data; prints what came of it
	@NIGHTJAR_DEMO=$${NIGHTJAR_DEMO:-true} $(BIN)/python -m local_stack run

up: $(STAMP) ## start Airflow and MLflow and leave them running
	@NIGHTJAR_DEMO=$${NIGHTJAR_DEMO:-true} $(BIN)/python -m local_stack up

down: $(STAMP) ## stop what `make up` started
	@NIGHTJAR_DEMO=$${NIGHTJAR_DEMO:-true} $(BIN)/python -m local_stack down

drill: $(STAMP) ## break a pipeline of its own on purpose and show the pages that arrive; fails where one is missing or too many
	@NIGHTJAR_DEMO=$${NIGHTJAR_DEMO:-true} $(BIN)/python -m local_stack.drill

screenshots: $(STAMP) ## take the pictures of the README again, after a run of its own (needs Debian's chromium)
	@SCREENSHOT_FOLDER=docs/screenshots $(BIN)/python -m pytest -q -m browser tests/browser

test: $(STAMP) check ## lint, types, every test but those that need a browser, a real Prometheus, a whole deployment or the image
	@$(BIN)/python -m pytest -q -m "not browser and not deploy and not stack and not image" -n $(WORKERS) --dist loadfile --no-loadscope-reorder

define install
	@command -v $(1) | wc -l | grep -qx $(words $(1)) || { \
	  [ "$$(id -u)" = 0 ] || { echo "install them first: apt-get install --no-install-recommends $(1)"; exit 1; }; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1) >/dev/null; }
endef

BROWSER_TOOLS := chromium prometheus redis-server
IMAGE_TOOLS := buildah debootstrap docker-compose

$(DEPLOY_STAMP): $(STAMP) requirements-deploy.txt
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) uv pip install --quiet --require-hashes -r requirements-deploy.txt
	@touch $@

test-deploy: $(DEPLOY_STAMP) ## the three below; as root it installs Debian's packages, else it names them
	$(call install,$(BROWSER_TOOLS) $(IMAGE_TOOLS))
	@image=0; $(MAKE) --no-print-directory test-image || image=$$?; \
	  $(MAKE) --no-print-directory --jobs 2 --keep-going --output-sync=target test-stack test-browser && exit $$image

test-browser: $(STAMP) ## the checks in a real browser, a real Prometheus and a real Redis
	$(call install,$(BROWSER_TOOLS))
	@$(BIN)/python -m pytest -q -m "browser or deploy"

test-stack: $(DEPLOY_STAMP) ## nights, and what breaks them, on all that compose.yaml starts, as processes
	$(call install,redis-server)
	@$(BIN)/python -m pytest -q -m stack

test-image: $(STAMP) ## builds the image and tries it, as root
	$(call install,$(IMAGE_TOOLS))
	@$(BIN)/python -m pytest -q -m image

bench: $(STAMP) ## seconds and memory of the night, the year's ingest and the training, as a table
	@NIGHTJAR_DEMO=$${NIGHTJAR_DEMO:-true} $(BIN)/python -m benchmarks
	@NIGHTJAR_DEMO=$${NIGHTJAR_DEMO:-true} $(BIN)/python -m benchmarks.night_sizes --sizes 1,10

SBOM := var/sbom.json
sbom: $(STAMP) ## the bill of materials of what is installed, with licences: var/sbom.json (CycloneDX)
	@mkdir -p $(dir $(SBOM))
	@$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --mc-type application --output-reproducible --validate -o $(SBOM) $(BIN)/python

format: $(STAMP) ## put code into the project's form
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

check: $(STAMP) ## lint, form, types and the direction of imports
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --check --quiet . && $(BIN)/mypy && $(BIN)/lint-imports

docs: $(STAMP) ## write contracts/, docs/kpis.md and the tables of docs/analysts.md from the code
	@NIGHTJAR_DEMO=$${NIGHTJAR_DEMO:-true} $(BIN)/nightjar contract
	@NIGHTJAR_DEMO=true $(BIN)/nightjar serve --contract > contracts/serving.json

reliability: $(STAMP) ## run every test of a fault or an attack, and write docs/reliability.md
	@$(BIN)/python -m pytest -q -m "(fault or attack) and not browser and not stack and not image" --reliability -n $(WORKERS) --dist load --maxschedchunk 1

clean: ## remove what runs and tools left, the environment too
	rm -rf var .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
