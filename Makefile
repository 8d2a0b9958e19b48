# Seam on one machine. `make` alone lists what there is; everything sets itself up first.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup run up test check format stubs freeze clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## make .venv with everything in it (at once when that is done)
	@$(PYTHON) tools/set_up.py .venv

run: setup ## the main job from nothing: start split, search, chat, show where the time went, stop
	@$(BIN)/seam-up --topology split --grpc-port 0 --http-port 0 --demo README.md

up: setup ## start split and leave it running until Ctrl-C (ARGS="--topology hybrid" and the like)
	@$(BIN)/seam-up $(ARGS)

test: setup ## pass the tests (ARGS="tests/unit -k pool" for some)
	@$(BIN)/pytest $(ARGS)

check: setup ## all that CI runs (ARGS="format lint types" for some)
	@$(BIN)/python tools/check.py $(ARGS)

format: setup ## format Python and the contracts
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix . && $(BIN)/buf format -w

stubs: setup ## generate from the contracts: the Python stubs, and what Envoy reads of them
	@$(BIN)/buf generate && $(BIN)/python tools/deployments.py

freeze: setup ## write constraints.txt anew from what is installed
	@$(BIN)/python tools/freeze.py

clean: ## remove environments, caches and run-time files
	@rm -rf .venv .venvs run build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
