#!/bin/bash
# Run a command with ROS and the package sourced.
set -e
source "/opt/ros/$ROS_DISTRO/setup.bash"
source /opt/mtl_perception/local_setup.bash
exec "$@"
