#!/bin/bash
# setup_env.sh [FOLDER]: build the virtual environment of `make setup` in FOLDER (default: .venv). The variables PYTHON, ROS and
# TORCH are documented in the Makefile.
#
# The stamp records what was installed and is written last. Without a stamp the last run did not finish, and the environment is
# rebuilt, because pip takes a partly copied package for an installed one.
set -euo pipefail
cd "$(dirname "$0")/.."

: "${PYTHON:=python3}" "${ROS:=jazzy}" "${TORCH:=-r requirements/torch.txt}"
VENV=${1:-.venv}
LIBRARIES="libegl1 libgl1 libglib2.0-0 libgomp1 libidn2-0 libudev1 libusb-1.0-0 libx11-6"
STAMP=$VENV/setup-stamp
LOG=$VENV/setup.log

fail() {
    echo "setup: $*" >&2
    exit 1
}

# apt_install REASON PACKAGE…: install system packages as root; otherwise print the command and stop.
apt_install() {
    local reason=$1 line
    shift
    line="apt-get install --yes --no-upgrade --no-install-recommends $*"
    command -v apt-get >/dev/null || fail "$reason; install the equivalents of: $*"
    [ "$(id -u)" = 0 ] || fail "$reason; run: sudo apt-get update && sudo $line; then run make again"
    echo "setup: $reason; installing $*"
    apt-get update -qq </dev/null || echo "setup: apt-get update failed; using the existing package lists" >&2
    env DEBIAN_FRONTEND=noninteractive $line </dev/null || fail "$reason; apt-get could not install $*"
}

check_python() {
    command -v "$PYTHON" >/dev/null || fail "$PYTHON not found; install Python 3.10 or later, or set PYTHON"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        fail "$PYTHON is $("$PYTHON" --version 2>&1), but 3.10 or later is required; run make PYTHON=/path/to/python3"
    [ -n "$requirements" ] || fail "unknown ROS=$ROS; choose one of: none $(ls requirements | sed -n 's/^ros-\(.*\)\.txt$/\1/p' | xargs)"
    if [ "$ROS" = none ]; then
        "$PYTHON" -c 'import rclpy' 2>/dev/null ||
            fail "ROS=none uses the ROS installation of this system, but $PYTHON cannot import rclpy; source /opt/ros/DISTRO/setup.bash"
    elif [ "$(uname -sm)" != "Linux x86_64" ]; then
        fail "ROS wheels exist for Linux x86_64 only, and this is $(uname -sm); install and source ROS 2, then run make ROS=none"
    fi
}

# The base of the environment: any change causes a rebuild.
foundation() {
    "$PYTHON" -c 'import sys; print(sys.version.split()[0], sys.base_prefix, sys.argv[1:])' "$PWD" "$ROS"
}

# The contents of the environment: any change causes an update.
contents() {
    { echo "$TORCH"; cat tools/setup_env.sh requirements/*.txt setup.py setup.cfg; } | sha256sum
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
    echo "setup: creating $VENV with $("$PYTHON" --version)"
    "$PYTHON" -m venv "${options[@]}" $VENV || fail "$PYTHON -m venv failed; see the output above"
}

pip_install() {
    echo "setup: installing $1"
    shift
    venv_python -m pip install --no-input --disable-pip-version-check "$@" >>"$LOG" 2>&1 </dev/null || {
        grep -v "is ignored: it is neither a file nor a directory" "$LOG" | tail -n 20 >&2
        fail "pip failed; see the output above and $LOG, then run make again"
    }
}

# With the system's ROS, keep the system's NumPy, for which its cv_bridge is compiled.
constraints() {
    : >$VENV/constraints.txt
    # If the system's NumPy is too old for this package, take the newest version with the same ABI.
    [ "$ROS" != none ] || venv_python -c 'import numpy; v = numpy.__version__; old = tuple(map(int, v.split(".")[:2])) < (1, 26)
print("numpy<2" if old else "numpy==" + v)' >$VENV/constraints.txt ||
        fail "ROS=none: NumPy not found on this system; install python3-numpy"
}

# An editable install lacks the files that ROS looks up in the prefix; link them.
link_ros_files() {
    local share=$VENV/share index=$VENV/share/ament_index/resource_index/packages
    rm -rf $VENV/lib/mtl_perception $share/mtl_perception
    mkdir -p $VENV/lib/mtl_perception $share/mtl_perception/launch $index
    # Link each file: `ros2 launch` does not follow linked folders.
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
        *"cannot open shared object file"*) apt_install "OpenCV and Open3D need system libraries" $LIBRARIES ;;
        *) fail "imports fail in $VENV: $(tail -n 1 <<<"$problem")" ;;
    esac
    problem=$(venv_python -c 'import cv2, open3d, torch' 2>&1) || fail "imports fail in $VENV: $(tail -n 1 <<<"$problem")"
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
# Keep the installed build of PyTorch in the following steps.
venv_python -c 'from importlib.metadata import version; print("torch==" + version("torch"))' >>$VENV/constraints.txt
pip_install "the packages for demo and tests" --constraint $VENV/constraints.txt -r requirements/dev.txt -r "$requirements"
# Rerun needs NumPy 2, which the system's ROS may not have.
if venv_python -c 'import numpy; raise SystemExit(int(numpy.__version__[0]) < 2)'; then
    pip_install "the Rerun viewer" --constraint $VENV/constraints.txt -r requirements/rerun.txt
fi
pip_install "mtl_perception" --no-deps --no-build-isolation --editable .
link_ros_files
# A partial stamp: if a system library is missing, the next run need not rebuild the environment.
foundation >"$STAMP"
check_imports
stamp >"$STAMP.part"
mv "$STAMP.part" "$STAMP"
echo "setup: $VENV is ready"
