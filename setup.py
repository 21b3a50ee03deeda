"""Where ROS finds the package's files; everything else that setuptools needs is in setup.cfg."""

from pathlib import Path

from setuptools import setup

NAME = "mtl_perception"
CONFIGURATION = ("config", "config/data", "config/sros2", "config/train")


def files(*patterns: str) -> list[str]:
    """The files that match, relative to this folder, which is where setup.py runs."""
    return sorted(str(path) for pattern in patterns for path in Path().glob(pattern) if path.is_file())


setup(
    # Not in setup.cfg: setuptools makes an object of it there, which colcon cannot read back.
    python_requires=">=3.10",
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", files("launch/*.launch.py")),
        *((f"share/{NAME}/{folder}", files(f"{folder}/*")) for folder in CONFIGURATION),
        # `ros2 run` and launch look for executables here; setting install_scripts instead would serve colcon but not pip.
        (f"lib/{NAME}", files("scripts/*")),
    ],
)
