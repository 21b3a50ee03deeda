"""Files installed for ROS. All other metadata is in setup.cfg."""

from pathlib import Path

from setuptools import setup

NAME = "mtl_perception"
CONFIGURATION = ("config", "config/data", "config/sros2", "config/train")


def files(*patterns: str) -> list[str]:
    """Return the matching files, relative to this folder, in which setup.py runs."""
    return sorted(str(path) for pattern in patterns for path in Path().glob(pattern) if path.is_file())


setup(
    # Not in setup.cfg: from there setuptools returns an object that colcon cannot serialize.
    python_requires=">=3.10",
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", files("launch/*.launch.py")),
        *((f"share/{NAME}/{folder}", files(f"{folder}/*")) for folder in CONFIGURATION),
        # `ros2 run` and launch look here for executables. Setting install_scripts instead would work with colcon only.
        (f"lib/{NAME}", files("scripts/*")),
    ],
)
