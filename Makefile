# Everything runs from the environment .venv, which `make setup` makes; every target makes it when it is missing.
SHELL := /bin/bash
# An ordinary user's PATH often lacks the administrator's commands (ip, nft).
export PATH := $(if $(PATH),$(PATH),/usr/local/bin:/usr/bin:/bin):/usr/local/sbin:/usr/sbin:/sbin
VENV := .venv
STAMP := $(VENV)/.installed

.PHONY: setup demo test lint format bench bench-agent bench-idle lock clean
.DEFAULT_GOAL := help

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements-dev.txt pyproject.toml scripts/setup
	@scripts/setup

setup: $(STAMP) ## install what is missing: Debian packages, .venv, Go, and the control plane's binaries (cached)
	@scripts/setup --check
	@$(VENV)/bin/sitegrid lab build >/dev/null

demo: setup ## the main job on a real local cluster: two YAML files, every site, traffic closed
	@$(VENV)/bin/sitegrid demo

test: setup lint ## every test: units, properties, the real control plane, the lab
	@$(VENV)/bin/python -m pytest -n 2 --dist loadfile

lint: $(STAMP) ## style, strict types, import contracts
	@$(VENV)/bin/ruff format --check --quiet src tests benchmarks
	@$(VENV)/bin/ruff check --quiet src tests benchmarks
	@$(VENV)/bin/mypy --no-error-summary
	@$(VENV)/bin/lint-imports >/dev/null || $(VENV)/bin/lint-imports

format: $(STAMP) ## rewrite the code in the project's style
	@$(VENV)/bin/ruff check --quiet --fix src tests benchmarks
	@$(VENV)/bin/ruff format --quiet src tests benchmarks

bench: setup ## measure speed and memory
	@$(VENV)/bin/python -m benchmarks

bench-agent: setup ## measure the agent against a stock kube-proxy: bytes, CPU, memory
	@$(VENV)/bin/python -m benchmarks.agent

bench-idle: setup ## count what sitegrid writes to an idle cluster: SITEGRID_IDLE_SECONDS (300), 16 nodes
	@$(VENV)/bin/python -m benchmarks.idle

lock: $(STAMP) ## renew the hashed requirements files
	@$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	  --extra lab pyproject.toml -o requirements.txt
	@$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	  --extra lab --group dev pyproject.toml -o requirements-dev.txt

clean: ## remove the environment and the tools' caches (the control plane's cache stays)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
