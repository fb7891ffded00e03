# Two commands are enough: `make demo` and `make test`. Everything they need is set up in .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
# The client package comes from this checkout too, so both are always installed together.
LOCAL  := -e clients/python
MVN    := mvn --batch-mode --no-transfer-progress --file clients/java

.DEFAULT_GOAL := help
.PHONY: help demo test test-clients test-clients-python test-clients-go test-clients-java example-go example-java example-python lint bench proto proto-release proto-check embedded-models set-up-demo set-up-dev set-up-heavy set-up-rivals bench-rerankers bench-router clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

demo: $(VENV)/demo ## set up, then search real documents at four budgets and show what reranking does
	@$(BIN)/millirank demo

test: $(VENV)/dev ## set up, lint, then run every test
	@$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest $(TESTS)
	@$(MAKE) --no-print-directory test-clients-go test-clients-java

test-clients: test-clients-python test-clients-go test-clients-java ## test every client

test-clients-python: $(VENV)/dev ## test the Python client
	$(BIN)/python -m pytest tests/clients

# A missing toolchain is no failure: who works on the sidecar needs neither Go nor Java. It is said, in a line of its own.
test-clients-go: $(VENV)/dev ## vet, check and test the Go client, also against a sidecar process
	@if command -v go >/dev/null; then $(MAKE) --no-print-directory -C clients/go test MILLIRANK_SIDECAR=$(CURDIR)/$(BIN)/millirank; \
	else echo "SKIPPED: Go client tests: no go toolchain found; install Go 1.26"; fi

example-go: $(VENV)/dev ## search the standard library's documentation with Bleve, before and after reranking
	@command -v go >/dev/null || { echo "The example needs a Go toolchain; install Go 1.26" >&2; exit 1; }
	@mkdir -p build
	@cd clients/go/examples/search && go build -o $(CURDIR)/build/search-go .
	@$(BIN)/millirank collection > build/collection.jsonl
	@sh clients/with-sidecar.sh $(BIN)/millirank sh -c 'build/search-go -sidecar "$$MILLIRANK_TARGET" "open a file for reading" \
		"run a function in a thread" "shuffle a list in place" "open a file for reading" <build/collection.jsonl'

example-python: $(VENV)/dev ## search the standard library's documentation with bm25s and hnswlib, before and after reranking
	@mkdir -p build
	@$(BIN)/millirank collection > build/collection.jsonl
	@sh clients/with-sidecar.sh $(BIN)/millirank sh -c \
		'$(BIN)/python clients/python/examples/search "$$MILLIRANK_TARGET" <build/collection.jsonl'

test-clients-java: $(VENV)/dev ## build and test the Java client, also against a sidecar process
	@if command -v javac >/dev/null && command -v mvn >/dev/null; then $(MVN) test; \
	else echo "SKIPPED: Java client tests: no JDK or no Maven found; install a JDK 17 and Maven 3.8, or newer"; fi

example-java: $(VENV)/dev ## search the standard library's documentation with Apache Lucene, before and after reranking
	@command -v javac >/dev/null && command -v mvn >/dev/null || { echo "The example needs a JDK 17 and Maven 3.8, or newer" >&2; exit 1; }
	@mkdir -p build
	@$(BIN)/millirank collection > build/collection.jsonl
	@sh clients/with-sidecar.sh $(BIN)/millirank $(MVN) --quiet -Prun test-compile -Dcollection=$(CURDIR)/build/collection.jsonl

lint: $(VENV)/dev ## ruff, mypy strict, import rules, contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	@$(MAKE) --no-print-directory proto-check

bench-rerankers: $(VENV)/embedded ## measure the rerankers against what one would use instead; writes build/bench/rerankers.json
	$(BIN)/python -m tests.bench.rerankers

# COLLECTIONS: a folder whose sub-folders are collections in BEIR layout.
OUT ?= build/bench/router.json
bench-router: $(VENV)/dev ## what calibration and routing are worth: make bench-router COLLECTIONS=folder [OUT=file]
	@test -n "$(COLLECTIONS)" || { echo "say on what: make bench-router COLLECTIONS=folder" >&2; exit 1; }
	$(BIN)/python -m tests.bench.router --collections "$(COLLECTIONS)" --out "$(OUT)"

bench: $(VENV)/dev ## measure the sidecar against a bare gRPC echo; writes build/bench/sidecar.json
	$(BIN)/python -m tests.bench

.PHONY: bench-clients bench-frozen
bench-clients: $(VENV)/dev ## what each client adds to a bare stub call, the sidecar to an echo; writes build/bench/clients.json
	$(BIN)/python -m tests.bench.clients

bench-frozen: $(VENV)/dev ## 10,000 calls at 50 ms to a frozen sidecar: p99.9 of each client beside bare timers
	$(BIN)/python -m pytest -q tests/clients/test_client_frozen.py -k ten_thousand
	@if command -v go >/dev/null; then cd clients/go && MILLIRANK_SIDECAR=$(CURDIR)/$(BIN)/millirank \
		go test -count=1 -v -run TestFrozenSidecarCostsTheBudget ./e2e; \
	else echo "SKIPPED: Go: no go toolchain found; install Go 1.26"; fi
	@if command -v javac >/dev/null && command -v mvn >/dev/null; then $(MVN) --quiet --projects client test \
		'-Dtest=SidecarProcessTest#tenThousand*'; \
	else echo "SKIPPED: Java: no JDK or no Maven found; install a JDK 17 and Maven 3.8, or newer"; fi

.PHONY: bench-load
bench-load: $(VENV)/dev ## find the capacity, then load the sidecar at 0.5 to 10 times that; writes build/bench/load.json and .png
	$(BIN)/python -m tests.bench.load $(if $(MINUTES),--minutes $(MINUTES))

.PHONY: bench-scale
bench-scale: $(VENV)/embedded ## a pool on Ray against a model in the process; writes build/bench/scale.json and .png
	$(BIN)/python -m tests.bench.scale

.PHONY: soak
soak: $(VENV)/dev ## load, cancellations, reloads and restarts for MINUTES=20: nothing may grow, nothing may be lost
	$(BIN)/python -m tests.bench.soak $(if $(MINUTES),--minutes $(MINUTES))

.PHONY: docs
docs: $(VENV)/dev ## make docs/configuration.md anew from the settings
	$(BIN)/python docs/make_configuration.py > docs/configuration.md

# FOLDERS: only these of deploy/tools.
DEPLOY_TOOLS := build/deploy-tools
.PHONY: deploy-tools
deploy-tools: ## build Helm, Kustomize and what else test-deploy needs, at pinned versions (minutes, once for all checkouts)
	@sh deploy/tools/build.sh $(DEPLOY_TOOLS) $(FOLDERS)

.PHONY: test-deploy
test-deploy: $(VENV)/dev ## render, validate and try out what is in deploy/; part of make test, and says which tools it misses
	$(BIN)/python -m pytest tests/deploy

.PHONY: fuzz
fuzz: $(VENV)/dev ## look for bytes that a reader does not take well: make fuzz [MINUTES=1] (each of 16) [TARGETS="wire llm"]
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(PIP) install --quiet $(LOCAL) -e '.[fuzz]'
	$(BIN)/python -m tests.fuzz $(TARGETS) $(if $(MINUTES),--minutes $(MINUTES))

# What the images install: every package, transitive ones too, with the digests of its files. The versions are those
# that the tests run with, so that nothing ships that was not tested. TORCH_CPU: where uv finds torch's build for CPUs.
TORCH_CPU ?= --torch-backend cpu
PIN := $(BIN)/uv pip compile - --quiet --upgrade --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-package millirank --no-emit-package millirank-server --constraint tests/ragatouille-constraints.txt \
	--custom-compile-command "make requirements" --output-file deploy/docker
.PHONY: requirements
requirements: $(VENV)/dev ## pin anew what the images install
	printf '%s\n' cyclonedx-bom hatchling pip | $(PIN)/requirements-build.txt
	printf '%s\n' ./clients/python . | $(PIN)/requirements-slim.txt
	printf '%s\n' ./clients/python '.[ragatouille]' torch==2.13.0 | $(PIN)/requirements-full-cuda.txt
	printf '%s\n' ./clients/python '.[ragatouille]' torch==2.13.0+cpu | $(PIN)/requirements-full-cpu.txt $(TORCH_CPU)

.PHONY: sbom
sbom: ## what the slim image installs, as CycloneDX: build/image/sbom.cdx.json
	@rm -rf build/image/millirank build/image/tools && mkdir -p build/image
	@for step in tools "requirements slim" millirank "sbom build/image/sbom.cdx.json"; do \
		TARGET=build/image/millirank TOOLS=build/image/tools PYTHON=$(PYTHON) sh deploy/docker/install.sh $$step || exit 1; done

.PHONY: image-rootfs
image-rootfs: ## build the slim image's files without a container engine, and try them out (root, Linux, debootstrap)
	sh deploy/docker/rootfs.sh build/image

PROTOC := $(BIN)/python -m grpc_tools.protoc -I proto
SERVICES := millirank/v1/rerank_service.proto millirank/v1/admin_service.proto
PROTOS := millirank/v1/decision.proto $(SERVICES)
STUBS  := clients/python/src

proto: $(VENV)/dev ## regenerate the committed Python and Go stubs
	$(PROTOC) --python_out=$(STUBS) --pyi_out=$(STUBS) $(PROTOS)
	$(PROTOC) --grpc_python_out=$(STUBS) $(SERVICES)
	PROTOC="$(PROTOC)" PROTOS="$(PROTOS)" sh proto/go-stubs.sh clients/go

proto-release: $(VENV)/dev ## promise the contract as it stands: from now on breaking it fails proto-check
	$(BIN)/buf build proto --exclude-source-info --output proto/released.binpb

proto-check: $(VENV)/dev ## the contract: lint, no breaking change, committed stubs are what it generates
	@PROTOC="$(PROTOC)" PROTOS="$(PROTOS)" SERVICES="$(SERVICES)" BUF=$(BIN)/buf sh proto/check.sh $(STUBS)

embedded-models: $(VENV)/embedded ## remake both embedded models (torch; about two hours on two cores)
	$(BIN)/python -m sidecar.embedded.make all

set-up-demo: $(VENV)/demo ## install what the demo needs
set-up-dev: $(VENV)/dev ## install what lint, test and bench need
set-up-rivals: $(VENV)/dev ## install other projects' servers that tests run against, each in an environment of its own
	$(BIN)/python -m tests.rivals
set-up-heavy: $(VENV)/embedded ## install torch and everything that the heavy tests need

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Millirank needs Python 3.11 or newer; run: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

# hnswlib comes as source.
.PHONY: compiler
compiler:
	@command -v c++ >/dev/null || command -v g++ >/dev/null || \
		{ echo "A C++ compiler is needed to build hnswlib; on Debian and Ubuntu: apt-get install g++" >&2; exit 1; }

MANIFESTS := pyproject.toml clients/python/pyproject.toml

$(VENV)/demo: $(MANIFESTS) | $(VENV)/bin/python
	@echo "setting up $(VENV) (about a minute and a half, once)"
	@$(PIP) install --quiet $(LOCAL) -e '.[demo]'
	@touch $@

$(VENV)/dev: $(MANIFESTS) | $(VENV)/bin/python compiler
	@echo "setting up $(VENV) for tests (about two minutes, once)"
	@$(PIP) install --quiet $(LOCAL) -e '.[dev]'
	@touch $@ $(VENV)/demo

$(VENV)/embedded: $(MANIFESTS) | $(VENV)/bin/python compiler
	@echo "setting up $(VENV) with torch (several minutes, once)"
	@$(PIP) install --quiet --constraint tests/ragatouille-constraints.txt $(LOCAL) -e '.[dev,embedded,ragatouille,llm-e2e,ray]'
	@touch $@ $(VENV)/dev $(VENV)/demo

clean: ## remove everything that was built or installed here
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
