#!/bin/bash
# setup_env.sh [FOLDER]: builds the environment of `make setup`, in .venv or FOLDER. Its variables (PYTHON, ROS, TORCH) are
# documented in the Makefile.
#
# The stamp is written last and says what was installed: no stamp means that the last set-up did not finish, and then the
# environment is built from nothing, because pip takes a half-copied package for an installed one.
set -euo pipefail
cd "$(dirname "$0")/.."

: "${PYTHON:=python3}" "${ROS:=jazzy}" "${TORCH:=torch==2.13.0}"
VENV=${1:-.venv}
LIBRARIES="libegl1 libgl1 libglib2.0-0 libgomp1 libidn2-0 libudev1 libusb-1.0-0 libx11-6"
STAMP=$VENV/setup-stamp
LOG=$VENV/setup.log

fail() {
    echo "setup: $*" >&2
    exit 1
}

# apt_install REASON PACKAGE…: install system packages, or say how to.
apt_install() {
    local reason=$1 sudo="" line
    shift
    line="apt-get install --yes --no-upgrade --no-install-recommends $*"
    command -v apt-get >/dev/null || fail "$reason; install what your system calls: $*"
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null || fail "$reason; run: sudo apt-get update && sudo $line; then call make again"
        sudo="sudo -n"
    fi
    echo "setup: $reason; installing $*"
    $sudo apt-get update -qq </dev/null || echo "setup: apt-get update failed; trying with the package lists at hand" >&2
    $sudo env DEBIAN_FRONTEND=noninteractive $line </dev/null || fail "$reason, and apt-get could not install: $*"
}

check_python() {
    command -v "$PYTHON" >/dev/null || fail "no $PYTHON on this machine; install Python 3.10 or later (or set PYTHON=…)"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        fail "$PYTHON is $("$PYTHON" --version 2>&1), 3.10 or later is needed: make PYTHON=/path/to/python3 …"
    [ -n "$requirements" ] || fail "no ROS=$ROS here; there are: none $(ls requirements | sed -n 's/^ros-\(.*\)\.txt$/\1/p' | xargs)"
    if [ "$ROS" = none ]; then
        "$PYTHON" -c 'import rclpy' 2>/dev/null ||
            fail "ROS=none takes ROS from your system, but $PYTHON cannot import rclpy: source /opt/ros/DISTRO/setup.bash first"
    elif [ "$(uname -sm)" != "Linux x86_64" ]; then
        fail "ROS wheels exist for Linux x86_64 only, this is $(uname -sm): install and source ROS 2, then make ROS=none …"
    fi
}

# What the environment stands on: any change, and it is built anew.
foundation() {
    "$PYTHON" -c 'import sys; print(sys.version.split()[0], sys.base_prefix, sys.argv[1:])' "$PWD" "$ROS"
}

# What is installed into it: any change, and it is gone over.
contents() {
    { echo "$TORCH"; cat tools/setup_env.sh requirements/base.txt requirements/train.txt requirements/export.txt requirements/dev.txt $requirements setup.py setup.cfg; } | sha256sum
}

stamp() {
    foundation
    contents
}

venv_python() {
    $VENV/bin/python "$@"
}

make_venv() {
    local options=()
    "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null ||
        apt_install "$PYTHON lacks its venv module" "python$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    [ "$ROS" != none ] || options+=(--system-site-packages)
    rm -rf $VENV
    echo "setup: making $VENV with $("$PYTHON" --version)"
    "$PYTHON" -m venv "${options[@]}" $VENV || fail "$PYTHON -m venv failed, see above"
}

pip_install() {
    echo "setup: installing $1"
    shift
    venv_python -m pip install --no-input --disable-pip-version-check "$@" >>"$LOG" 2>&1 </dev/null || {
        grep -v "is ignored: it is neither a file nor a directory" "$LOG" | tail -n 20 >&2
        fail "pip failed, see above and $LOG; call make again once the cause is gone"
    }
}

# constraints: with the system's ROS, the system's NumPy stays (its cv_bridge is compiled against it).
constraints() {
    : >$VENV/constraints.txt
    # What ROS's own modules are compiled for; where that is older than we can use, the newest of the same kind.
    [ "$ROS" != none ] || venv_python -c 'import numpy; v = numpy.__version__; old = tuple(map(int, v.split(".")[:2])) < (1, 26)
print("numpy<2" if old else "numpy==" + v)' >$VENV/constraints.txt ||
        fail "ROS=none: your ROS has no NumPy; install python3-numpy"
}

# An editable install leaves out what ROS looks for in the prefix: with these, launch files find the package there.
link_ros_files() {
    local share=$VENV/share index=$VENV/share/ament_index/resource_index/packages
    rm -rf $VENV/lib/mtl_perception $share/mtl_perception
    mkdir -p $VENV/lib/mtl_perception $share/mtl_perception/launch $index
    # Files one by one: `ros2 launch` does not look into linked folders.
    ln -s "$PWD"/scripts/* $VENV/lib/mtl_perception/
    ln -s "$PWD"/launch/*.launch.py $share/mtl_perception/launch/
    local file
    for file in config/* config/*/*; do
        if [ -f "$file" ]; then
            mkdir -p "$share/mtl_perception/${file%/*}"
            ln -s "$PWD/$file" "$share/mtl_perception/$file"
        fi
    done
    ln -s "$PWD/package.xml" $share/mtl_perception/
    ln -sf "$PWD/resource/mtl_perception" $index/
}

check_imports() {
    local problem
    problem=$(venv_python -c 'import cv2, open3d, torch' 2>&1) && return
    case $problem in
        *"cannot open shared object file"*) apt_install "OpenCV and Open3D miss system libraries" $LIBRARIES ;;
        *) fail "the environment does not work: $(tail -n 1 <<<"$problem")" ;;
    esac
    problem=$(venv_python -c 'import cv2, open3d, torch' 2>&1) || fail "the environment does not work: $(tail -n 1 <<<"$problem")"
}

requirements=$([ "$ROS" = none ] && echo /dev/null || ls "requirements/ros-$ROS.txt" 2>/dev/null || true)
mkdir -p build
exec 9>build/setup.lock
flock 9 2>/dev/null || true

if [ -x $VENV/bin/python ] && [ -f "$STAMP" ] && stamp 2>/dev/null | cmp -s - "$STAMP"; then
    exit 0
fi
check_python
if [ -x $VENV/bin/python ] && [ "$(head -n 1 "$STAMP" 2>/dev/null)" = "$(foundation)" ] && venv_python -m pip --version >/dev/null 2>&1
then
    rm "$STAMP"
else
    make_venv
fi
: >"$LOG"
constraints
pip_install "$TORCH" --constraint $VENV/constraints.txt $TORCH
# The exact build that is there now, so that nothing below replaces it.
venv_python -c 'from importlib.metadata import version; print("torch==" + version("torch"))' >>$VENV/constraints.txt
pip_install "what the package and its tests need" --constraint $VENV/constraints.txt \
    -r requirements/base.txt -r requirements/train.txt -r requirements/export.txt -r requirements/dev.txt -r "$requirements"
pip_install "mtl_perception" --no-deps --no-build-isolation --editable .
link_ros_files
# Half a stamp: all is installed, so that a second call after a missing system library need not start from nothing.
foundation >"$STAMP"
check_imports
stamp >"$STAMP.part"
mv "$STAMP.part" "$STAMP"
echo "setup: done, $VENV is ready"
