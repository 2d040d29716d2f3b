# One command set for people, hooks and CI. Every target sets up what it needs; a fresh machine needs Python 3.11 to 3.13, git and make.
.DEFAULT_GOAL := help
.PHONY: help setup run recordings evidence evidence-quick test lint format docs graph bench lock sbom licences audit containers services clean

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
READY := .venv/.ready
# Disable telemetry in all tools.
export DO_NOT_TRACK := true
export DVC_NO_ANALYTICS := true
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export GX_ANALYTICS_ENABLED := false
export HF_HUB_DISABLE_TELEMETRY := true
# The lock is installed without compiling 25,000 files; imported files are compiled once, and not again by each process.
unexport PYTHONDONTWRITEBYTECODE

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(READY)  ## Make .venv from the lock file

$(READY): requirements.lock pyproject.toml
	@echo "setting up .venv from requirements.lock (about 270 packages, a few minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -qq --no-compile --no-deps -r requirements.lock
	@$(BIN)/python -m pip install -qq --no-compile -c requirements.lock torch  # the libraries of a CUDA build, where it is one
	@$(BIN)/python -m pip install -qq --no-compile --no-deps --no-build-isolation -e .
	@touch $@

run: $(READY)  ## The whole pipeline on the generated corpus: data to promoted models, report and registry
	@$(BIN)/coat run

recordings: $(READY)  ## The same pipeline on real recordings (../shared/recordings), in workspaces/recordings
	@$(BIN)/coat workspace workspaces/recordings --params params/recordings.yaml
	@cd workspaces/recordings && ../../$(BIN)/coat run

evidence: $(READY)  ## Three seeds, seven arms, label curves on the recordings: the README's table (resumable, up to 12 hours)
	@for part in central further; do \
	  folders=$$($(BIN)/python -m benchmarks.workspaces $$part) || exit 1; \
	  for folder in $$folders; do (cd $$folder && ../../$(BIN)/coat run) || exit 1; done; \
	done
	@$(BIN)/python -m benchmarks.evidence

evidence-quick: $(READY)  ## The central comparison with one seed (about an hour)
	@folder=$$($(BIN)/python -m benchmarks.workspaces quick) && cd $$folder && ../../$(BIN)/coat run
	@$(BIN)/python -m benchmarks.evidence --quick

test: $(READY)  ## Every test, the slow ones too
	@$(BIN)/python -m pytest -n 2 --dist loadfile

services: $(READY)  ## Install what the tests with PostgreSQL, accounts and a browser need (COAT_REQUIRE_SERVICES=1 make test fails without it)
	@ls /usr/lib/postgresql/*/bin/initdb > /dev/null 2>&1 || command -v initdb > /dev/null || \
	  { echo "installing Debian's postgresql; its own server is not used: the tests start theirs on a free port"; \
	    $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq --no-install-recommends postgresql; }
	@command -v chromium > /dev/null || command -v google-chrome > /dev/null || \
	  { echo "installing Debian's chromium"; $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq --no-install-recommends chromium; }
	@echo "installing the extras server and browser into .venv: psycopg2-binary, Flask-WTF (accounts of MLflow), Playwright"
	@$(BIN)/python -m pip install -qq -c requirements.lock --no-build-isolation -e '.[server,browser]'
	@$(BIN)/python -m tests.testing.services

lint: $(READY)  ## ruff, mypy --strict, the import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check -q .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

format: $(READY)  ## Let ruff fix what it can
	@$(BIN)/ruff check --fix .

DOCS ?= .scratch/docs
$(DOCS)/.ready: pyproject.toml
	@test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	@$(DOCS)/bin/python -m pip install -qq "$$($(DOCS)/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])')"
	@touch $@

docs: $(DOCS)/.ready  ## Write the documentation as a site to .scratch/site; fail on a broken link
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict -q
	@echo .scratch/site/index.html

graph: $(READY)  ## Write the code that each stage imports into dvc.yaml
	@$(BIN)/python -m tests.testing.import_closure

bench: $(READY)  ## The benchmarks, each with both sides in one run
	@for name in experts training_step frontend extract; do $(BIN)/python -m benchmarks.$$name || exit 1; done

lock:  ## Write requirements.lock for every Python that pyproject.toml allows; UPGRADE=--upgrade takes the newest versions
	@test -x .scratch/lock/bin/uv || ($(PYTHON) -m venv .scratch/lock && .scratch/lock/bin/python -m pip install -qq uv)
	@cp requirements.lock .scratch/requirements.txt
	@echo torch==2.13.0 > .scratch/torch.in
	@.scratch/lock/bin/uv pip compile -q --universal --python-version 3.11 --extra speech --extra pitch --extra dev --no-header --no-annotate $(UPGRADE) \
	  -o .scratch/requirements.txt pyproject.toml .scratch/torch.in > .scratch/lock.log
	@(head -3 requirements.lock; grep -vE '^(nvidia-|cuda-|triton=)' .scratch/requirements.txt) > .scratch/requirements.lock
	@mv .scratch/requirements.lock requirements.lock

# The tools of the next three targets have an environment of their own.
SUPPLY ?= .scratch/supply
# Licences that are not accepted without a look. The packages are those that were looked at: docs/production.md, Supply chain.
COPYLEFT := GPL;General Public;EPL;Affero;SSPL;UNKNOWN
LOOKED_AT := asyncssh dulwich espeakng-loader grandalf huey pygit2 skops soxr text-unidecode

$(SUPPLY)/.ready: .ci/requirements-supply.txt
	@test -x $(SUPPLY)/bin/python || $(PYTHON) -m venv $(SUPPLY)
	@$(SUPPLY)/bin/python -m pip install -qq --no-deps -r $<
	@touch $@

sbom: $(READY) $(SUPPLY)/.ready  ## Write the bill of materials of .venv to .scratch/sbom.json (CycloneDX)
	@$(SUPPLY)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o .scratch/sbom.json $(BIN)/python
	@echo .scratch/sbom.json

licences: $(READY) $(SUPPLY)/.ready  ## Write the licences of all packages to .scratch/licences.md; fail on a copyleft or unknown one that is new
	@$(SUPPLY)/bin/pip-licenses --python $(BIN)/python --with-urls --format markdown --output-file .scratch/licences.md
	@$(SUPPLY)/bin/pip-licenses --python $(BIN)/python --summary --partial-match --fail-on '$(COPYLEFT)' --ignore-packages $(LOOKED_AT)

audit: $(SUPPLY)/.ready  ## Look for known vulnerabilities in requirements.lock; needs the network
	@$(SUPPLY)/bin/pip-audit --strict --disable-pip --no-deps -r requirements.lock

containers:  ## Build the images, run the smoke chain in them and remove them (docker compose; docker/README.md)
	@docker/trial

clean:  ## Remove results and scratch; .venv, the DVC cache and mlflow.db stay
	rm -rf .scratch data features audio models runs responses evaluation latency report
