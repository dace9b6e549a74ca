# Each target sets itself up: it makes .venv if there is none, and installs the tested versions
# again whenever pyproject.toml or constraints.txt have changed.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PY := .venv/bin/python
# The index of torch's CPU builds, which pytorch.org names: without an NVIDIA GPU, torch from there
# spares some gigabytes of CUDA libraries.
TORCH_INDEX ?=
# The name holds the place and the wanted packages, so that a .venv that was copied or shared
# is installed into anew.
STAMP := .venv/.gossamer-$(shell { pwd; cat pyproject.toml constraints.txt; } | cksum | cut -d' ' -f1)

.PHONY: help demo studio test test-slow test-kills test-peft test-eval test-cluster test-federated test-clients coverage fuzz bench lint format docs screenshots docs-check clean

help:  ## Show this list.
	@grep -E '^[a-z-]+:.*  ## ' Makefile | sed -E 's/^([a-z-]+):.*  ## /\1\t/' | expand -t 12

demo: $(STAMP)  ## Tune four personas, serve them all, ask them; one more by a job (under 15 minutes).
	@$(PY) -m demo

studio: $(STAMP)  ## Open Tune Studio on a small model: drop a file, or begin with the example rows.
	@$(PY) -m gossamer studio smollm2-135m

# One more than there are processors, since many tests wait for a process or a clock.
WORKERS := $(shell cores=$$(nproc 2>/dev/null || sysctl -n hw.logicalcpu 2>/dev/null || echo 2); \
	echo $$((cores < 7 ? cores + 1 : 8)))
# Files are begun in their order: the one with the fewest tests, which may take longest, would
# otherwise come last and be waited for.
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test: $(STAMP)  ## Run the tests (minutes; no network).
	@$(PY) -m pytest $(PARALLEL)

test-slow: $(STAMP)  ## Run the tests that need the real SmolLM2 model or much time.
	@$(PY) -m pytest -m slow

test-kills: $(STAMP)  ## Kill workers and servers of jobs 40 times, on SQLite and PostgreSQL (minutes).
	@$(PY) -m pytest -m slow tests/jobs/test_kills.py

# Options of pytest, such as PEFT_SUITE="-k Llama test_decoder_models.py", run a part.
PEFT_SUITE ?= -n logical --maxprocesses 8
test-peft: $(STAMP)  ## Run PEFT's own tests over our tuners (some 10 minutes; fetches PEFT's source).
	@$(PY) tests/peft_suite $(PEFT_SUITE)

# PYTHON=python3.13 takes another Python, TORCH_INDEX torch from another index.
test-oldest test-newest: export TORCH_INDEX := $(TORCH_INDEX)
test-oldest:  ## Test methods and training with the oldest libraries that pyproject.toml allows.
	@tests/versions/run.sh oldest $(PYTHON)

test-newest:  ## The same with the newest libraries there are, those not yet allowed too.
	@tests/versions/run.sh newest $(PYTHON)

test-eval: $(STAMP)  ## Test `gossamer eval` with lm-evaluation-harness (fetches it, into build/).
	@tests/evaluation/run.sh $(PY)

test-cluster: $(STAMP)  ## Test replicas on Ray Serve (fetches Ray, into build/).
	@tests/cluster/run.sh $(PY)

test-federated: $(STAMP)  ## Test federated tuning over Flower (fetches it, into build/).
	@tests/federated/run.sh $(PY)

test-clients: $(STAMP)  ## Have other programs ask a server, each in its own environment in build/.
	@PYTHONPATH=src $(PY) tests/clients/run.py $(CLIENTS)

coverage: $(STAMP)  ## Run the tests and list the lines of the package that none of them reaches.
	@$(PY) -m pytest $(PARALLEL) --cov=gossamer \
		--cov-report=term:skip-covered --cov-report=html:build/coverage
	@echo "build/coverage/index.html"

# atheris is for this target alone, so it is no dependency and lies beside what it finds.
FUZZ_SECONDS ?= 180
FUZZ_PACKAGES := build/fuzz/packages
fuzz: $(STAMP)  ## Fuzz the readers of adapters, guided by coverage (FUZZ_SECONDS=180).
	@[ -d $(FUZZ_PACKAGES)/atheris ] || $(PY) -m pip install --quiet --no-deps \
		--target $(FUZZ_PACKAGES) atheris==3.0.0
	@PYTHONPATH=$(FUZZ_PACKAGES) $(PY) tests/fuzz/coverage_guided.py -max_total_time=$(FUZZ_SECONDS)

bench: $(STAMP)  ## Measure decoding with many adapters against PEFT and transformers.
	@$(PY) benchmarks/decode.py

lint: $(STAMP)  ## Check format, style and types.
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@$(PY) scripts/page_types.py

format: $(STAMP)  ## Format the code and mend what ruff can mend.
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

docs: $(STAMP)  ## Generate the reference pages and build the site into site/.
	@$(PY) docs/generate.py
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --strict
	@echo "site/index.html"

screenshots: $(STAMP)  ## Take the pictures of Tune Studio in the guides again (needs Chromium).
	@$(PY) scripts/screenshots.py

docs-check: $(STAMP)  ## Check that the reference is up to date and that the site builds.
	@$(PY) docs/generate.py --check
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --strict

clean:  ## Remove what the targets made, apart from .venv.
	@rm -rf site demo-run build dist .coverage* .pytest_cache .mypy_cache .ruff_cache src/*.egg-info
	@find src tests demo docs benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP):
	@if ! $(PY) -c '' 2>/dev/null; then \
		if [ -z "$(PYTHON)" ]; then echo "make: no Python 3.11 or newer found; name one with make PYTHON=..." >&2; exit 1; fi; \
		echo "Making .venv with $(PYTHON)"; \
		if [ -L .venv ]; then rm .venv; fi; \
		"$(PYTHON)" -m venv --clear .venv; \
	fi
	@rm -f .venv/.gossamer-*
	@if [ -n "$(TORCH_INDEX)" ]; then \
		torch=$$(grep '^torch==' constraints.txt); \
		echo "Installing the CPU build of $$torch"; \
		PIP_INDEX_URL="$(TORCH_INDEX)" $(PY) -m pip install --quiet --no-deps "$$torch"; \
	elif [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null \
			&& ! $(PY) -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("torch"))'; then \
		echo "No NVIDIA GPU found: with TORCH_INDEX=..., some gigabytes of CUDA libraries need not be fetched (README, Install)"; \
	fi
	@echo "Installing the packages that constraints.txt pins (some minutes)"
	@$(PY) -m pip install -c constraints.txt -e '.[tune,studio,postgres,otel,demo,dev,docs,qlora]' 2>&1 | tee .venv/install.log | awk ' \
		/^Collecting / { printf "."; fflush() } \
		/Downloading .* MB\)$$/ { size = $$(NF - 1); sub(/\(/, "", size); \
			if (size + 0 > 40) { printf "\n%s\n", $$0; fflush() } } \
		/^Installing collected/ { print "\nUnpacking"; fflush() } \
		/^Successfully installed/ { print "Installed " NF - 2 " packages" }' \
		|| { echo; tail -20 .venv/install.log; echo "make: pip failed; its whole output is in .venv/install.log"; exit 1; } >&2
	@$(PY) -m gossamer.kernels.compile
	@touch $@
