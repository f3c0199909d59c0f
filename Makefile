# resultsfs. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
.DEFAULT_GOAL := help

.PHONY: help install demo test lint format test-conformance cluster-up cluster-down cluster-status test-cluster test-e2e bench bench-csi bench-cluster bench-controller docs manifests proto example-kubeflow clean
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## set up .venv with .venv/bin/resultsfs, and libfuse if it is missing

$(VENV)/.installed: pyproject.toml scripts/system-packages
	@scripts/system-packages $(PYTHON)
	@echo "resultsfs: setting up $(VENV)"
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

demo: $(VENV)/.installed ## run a real pipeline with results too large for Tekton
	$(BIN)/resultsfs run examples/demo.yaml

test: lint ## all checks and tests, but for the slow ones and those on the cluster
	$(PYTEST) -n auto -m "not slow and not cluster"

lint: $(VENV)/.installed-test ## style, types, import contracts, generated docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python scripts/settings_doc.py --check
	$(BIN)/python scripts/chart_schema.py --check

format: $(VENV)/.installed-test ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-conformance: $(VENV)/.installed-test ## the slow tests: whole suites, minutes each
	$(PYTEST) -n auto --dist loadfile -m "slow and not cluster"

test-cluster: $(VENV)/.installed-test ## the tests on a real cluster, which is started if it is not up; SUITE="stock results": only those; QUICK=1: without 1 GiB
	$(PYTEST) -n 0 -m "cluster$(if $(QUICK), and not slow)" $(if $(SUITE),$(SUITE:%=tests/cluster/test_%.py),tests/cluster --ignore tests/cluster/e2e)

test-e2e: $(VENV)/.installed-test ## the whole mission on a real cluster: installed as the README says, broken, operated; SUITE= and QUICK= as above
	$(PYTEST) -n 0 -m "cluster$(if $(QUICK), and not slow)" $(if $(SUITE),$(SUITE:%=tests/cluster/e2e/test_%.py),tests/cluster/e2e)

bench-controller: $(VENV)/.installed-test ## measure what admission adds, on a real API server
	$(BIN)/python -m benchmarks.admission

bench-csi: $(VENV)/.installed-test ## measure the node driver: publishing, memory
	$(BIN)/python -m benchmarks.driver

bench-cluster: $(VENV)/.installed-test ## measure stock Tekton and resultsfs on the cluster; writes bench-results/cluster.json
	$(BIN)/python -m benchmarks.cluster --output bench-results/cluster.json

cluster-up: $(VENV)/.installed-test ## a Kubernetes on this machine; as root, the first time in up to 40 minutes
	$(BIN)/python -m tests.cluster up

cluster-down: $(VENV)/.installed-test ## remove it and all it left
	$(BIN)/python -m tests.cluster down

cluster-status: $(VENV)/.installed-test ## what works of it, and where its logs are
	@$(BIN)/python -m tests.cluster status

bench: $(VENV)/.installed-test ## measure against a plain directory, and write bench-results/
	$(BIN)/python -m benchmarks

docs: $(VENV)/.installed ## write docs/settings.md, and the chart's schema of the settings, anew
	$(BIN)/python scripts/settings_doc.py
	$(BIN)/python scripts/chart_schema.py

manifests: ## render the chart to deploy/manifests (needs Go, for Helm)
	for file in settings resultsfs; do \
		scripts/manifests $$file > deploy/manifests/$$file.yaml.new && \
		mv deploy/manifests/$$file.yaml.new deploy/manifests/$$file.yaml || exit 1; \
	done

proto: $(VENV)/.installed-test ## write csi/proto anew from the published CSI specification
	scripts/proto $(BIN)

example-kubeflow: ## compile examples/kubeflow/pipeline.yaml anew from pipeline.py
	scripts/compile-kubeflow $(PYTHON) examples/kubeflow/pipeline.yaml

clean: ## remove what the targets made
	rm -rf $(VENV) *.egg-info build dist bench-results .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
