"""Package metadata, dependencies, generated configuration and contents of the wheel."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

import mtl_perception
from mtl_perception import config, resources
from mtl_perception.__main__ import main
from mtl_perception.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PYPI_NAMES = {"cv2": "opencv-python", "rerun": "rerun-sdk", "yaml": "PyYAML"}
ROSDEP_KEYS = {
    "numpy": "python3-numpy",
    "opencv-python": "python3-opencv",
    "PyYAML": "python3-yaml",
    "safetensors": None,  # no key is known; the README installs it with pip
    "torch": "python3-pytorch-pip",
}
ROBOT = set(ROSDEP_KEYS)


@pytest.fixture(scope="module")
def manifest() -> ElementTree.Element:
    return ElementTree.parse(ROOT / "package.xml").getroot()


@pytest.fixture(scope="module")
def imported() -> set[str]:
    """Top-level modules that the package and its launch files import and that are not Python's own."""
    names: set[str] = set()
    for path in [*ROOT.glob("mtl_perception/**/*.py"), *ROOT.glob("launch/*.py")]:
        for statement in ast.walk(ast.parse(path.read_text())):
            if isinstance(statement, ast.Import):
                names |= {alias.name.split(".")[0] for alias in statement.names}
            elif isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
                names.add(statement.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"mtl_perception"}


@pytest.fixture(scope="module")
def extras() -> dict[str, dict[str, str]]:
    """Lower bounds by package for each extra of setup.cfg; those of install_requires under the empty name."""
    settings = ConfigParser()
    settings.read(ROOT / "setup.cfg")
    lists = {"": settings["options"]["install_requires"], **settings["options.extras_require"]}
    return {
        extra: dict(line.partition(";")[0].split(">=") for line in text.split("\n") if line) for extra, text in lists.items()
    }


def test_every_import_is_declared(manifest: ElementTree.Element, imported: set[str], extras: dict[str, dict[str, str]]) -> None:
    ros = {element.text for element in manifest.findall("exec_depend")}
    pip = {package for packages in extras.values() for package in packages}
    assert {PYPI_NAMES.get(name, name) for name in imported} - ros - pip == set()


def test_robot_install_is_small(manifest: ElementTree.Element, extras: dict[str, dict[str, str]]) -> None:
    assert set(extras[""]) == ROBOT
    ros = {element.text for element in manifest.findall("exec_depend")}
    assert {name for name in ros if name and name.startswith("python3-")} == {key for key in ROSDEP_KEYS.values() if key}
    assert ros.isdisjoint({"rviz2", "sensor_msgs_py"})


def requirements(name: str) -> dict[str, set[str]]:
    """Pinned versions or ranges by package of one file in requirements/ and the files that it includes."""
    packages: dict[str, set[str]] = {}
    for line in (ROOT / "requirements" / f"{name}.txt").read_text().splitlines():
        line = re.split(r"[;#]", line)[0].strip()
        if line.startswith("-r "):
            for package, versions in requirements(line[3:].removesuffix(".txt")).items():
                packages.setdefault(package, set()).update(versions)
        elif line:
            package = re.match(r"[\w.-]+", line).group()  # type: ignore[union-attr]
            packages.setdefault(package, set()).add(line.removeprefix(package))
    return packages


def test_requirements_name_the_packages_of_each_extra(extras: dict[str, dict[str, str]]) -> None:
    assert set(requirements("base")) | set(requirements("torch")) == set(extras.pop(""))
    for extra, packages in extras.items():
        assert set(requirements(extra)) == set(packages), extra
        if extra != "rerun":  # Installed by itself, and only with NumPy 2.
            assert set(packages) <= set(requirements("dev")), f"make setup does not install [{extra}]"
    assert "-r requirements/rerun.txt" in (ROOT / "tools/setup_env.sh").read_text()


def test_pinned_versions_are_not_below_the_lower_bounds(extras: dict[str, dict[str, str]]) -> None:
    def number(version: str) -> list[int]:
        return [int(part) for part in version.split(".")]

    for extra, packages in extras.items():
        files = [requirements("base"), requirements("torch")] if not extra else [requirements(extra)]
        for package, bound in packages.items():
            for versions in (file[package] for file in files if package in file):
                assert all(number(re.findall(r"[\d.]+", version)[0]) >= number(bound) for version in versions), package


def test_versions_agree(manifest: ElementTree.Element) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert manifest.findtext("version") == citation["version"] == mtl_perception.__version__
    assert f"## {citation['version']} - {citation['date-released']}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_colcon_accepts_the_maintainer(manifest: ElementTree.Element) -> None:
    # What catkin_pkg demands; a package that fails it is silently built as something else.
    maintainer = manifest.find("maintainer")
    assert maintainer is not None
    assert re.fullmatch(
        r"[-a-zA-Z0-9_%+]+(\.[-a-zA-Z0-9_%+]+)*@[-a-zA-Z0-9%]+(\.[-a-zA-Z0-9%]+)*\.[a-zA-Z]{2,}", maintainer.get("email", "")
    )
    assert manifest.findtext("export/build_type") == "ament_python"


def test_configuration_file_is_the_generated_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parameters", "--format", "yaml"]) == 0
    assert (ROOT / "config/perception.yaml").read_text() == capsys.readouterr().out


def test_configuration_file_holds_every_default() -> None:
    values = yaml.safe_load((ROOT / "config/perception.yaml").read_text())["/**"]["ros__parameters"]
    # ROS's word for no names.
    lists = ("cameras", "class_groups")
    assert [values.pop(name) for name in lists] == [[""], [""]]
    rows = [row for row in config.parameters() if row.name not in lists]
    assert values == {row.name: row.default for row in rows}
    assert {name: type(value) for name, value in values.items()} == {row.name: row.type for row in rows}


def test_markdown_table_has_a_row_a_parameter(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parameters", "--format", "markdown"]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == [parameter.name for parameter in config.parameters()]
    assert all(row.count("|") == 6 for row in rows)
    assert "| `min_confidence` | `0.0` | 0 to 1 | any time | Minimum confidence" in "\n".join(rows)


def test_profile_has_room_for_a_cloud() -> None:
    profile = ElementTree.parse(resources.share_file("config/fastdds_shm.xml"))
    space = {"d": "http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles"}
    sizes = [int(element.text or 0) for element in profile.iterfind(".//d:segment_size", space)]
    assert sizes == [64 * 2**20]
    used = {element.text for element in profile.iterfind(".//d:userTransports/d:transport_id", space)}
    defined = {element.text for element in profile.iterfind(".//d:transport_descriptor/d:transport_id", space)}
    assert used == defined


def test_share_file_finds_a_workspace_and_a_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "__file__", str(tmp_path / "lib/mtl_perception/resources.py"))
    workspace, prefix = tmp_path / "workspace", tmp_path / "prefix"
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path / 'other'}:{workspace}")
    monkeypatch.setattr(sys, "prefix", str(prefix))
    for place in (prefix, workspace):
        (place / "share/mtl_perception/config").mkdir(parents=True)
        (place / "share/mtl_perception/config/a.yaml").touch()
        assert resources.share_file("config/a.yaml") == place / "share/mtl_perception/config/a.yaml"
    with pytest.raises(ConfigError, match=r"cannot find config/b\.yaml of mtl_perception in .*workspace"):
        resources.share_file("config/b.yaml")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names of the files in a wheel built from a copy of the checkout."""
    copy, out = tmp_path_factory.mktemp("source") / "copy", tmp_path_factory.mktemp("wheel")
    unwanted = shutil.ignore_patterns(".*", "build", "install", "log", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=unwanted)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(out)], cwd=copy, check=True, capture_output=True)
    return zipfile.ZipFile(next(out.glob("*.whl"))).namelist()


@pytest.mark.parametrize(
    "ending",
    [
        "/data/lib/mtl_perception/perception_node",
        "/data/share/ament_index/resource_index/packages/mtl_perception",
        "/data/share/mtl_perception/package.xml",
        "/data/share/mtl_perception/launch/perception.launch.py",
        "/data/share/mtl_perception/launch/demo.launch.py",
        "/data/share/mtl_perception/launch/nav2.launch.py",
        "/data/share/mtl_perception/config/perception.yaml",
        "/data/share/mtl_perception/config/perception.rviz",
        "/data/share/mtl_perception/config/nav2.yaml",
        "/data/share/mtl_perception/config/nav2_costmap.yaml",
        "/data/share/mtl_perception/config/perception_z_up.rviz",
        "/data/share/mtl_perception/config/fastdds_shm.xml",
        "mtl_perception/py.typed",
        "mtl_perception/ros/main.py",
    ],
)
def test_wheel_holds(wheel: list[str], ending: str) -> None:
    assert any(name.endswith(ending) for name in wheel)


def test_wheel_holds_all_data_beside_the_code(wheel: list[str]) -> None:
    kinds = ("models/*.safetensors", "visualization/*.html", "mappings/*.yaml")
    wanted = {str(path.relative_to(ROOT)) for kind in kinds for path in (ROOT / "mtl_perception").glob(kind)}
    assert wanted - set(wheel) == set()
    assert not [name for name in wheel if name.startswith(("test/", "tools/"))]


@pytest.mark.parametrize("name", ["venv", ".venv"])
def test_virtual_environment_of_the_workspace_is_found(tmp_path: Path, name: str) -> None:
    """In the root of the workspace, for an isolated and a merged install; an activated one comes first."""
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    found = _executable(tmp_path / name / "bin/python3", "#!/bin/sh\necho workspace\n")
    active = _executable(tmp_path / "active/bin/python3", "#!/bin/sh\necho active\n")
    for prefix in ("install/mtl_perception", "install"):
        script = tmp_path / prefix / "lib/mtl_perception/python"
        script.parent.mkdir(parents=True, exist_ok=True)
        script.symlink_to(ROOT / "scripts/python")
        for variables, expected in (({}, "workspace"), ({"VIRTUAL_ENV": str(active.parents[1])}, "active")):
            done = subprocess.run([script], env={**environment, **variables}, capture_output=True, text=True, check=True)
            assert done.stdout.split() == [expected], found


def _executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True)
    path.write_text(text)
    path.chmod(0o755)
    return path
