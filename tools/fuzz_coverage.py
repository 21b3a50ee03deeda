#!/usr/bin/env python3
"""Coverage-guided fuzzing of the readers of untrusted input: `python tools/fuzz_coverage.py [TARGET] --seconds N`.

Without a target, all targets run one after another, each in its own process. build/fuzz/TARGET receives the corpus of inputs
that reach new lines, and `crash-…`, `timeout-…` and `oom-…` for faults; `TARGET --replay FILE` runs one input again.
Requires atheris (requirements/fuzz.txt); without it the tool prints a message and does nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "build" / "fuzz"
LIMITS = ("-timeout=20", "-rss_limit_mb=3000", "-max_len=8192")
sys.path[:0] = [str(ROOT), str(ROOT / "test")]

Target = tuple[Callable[[bytes], object], Iterable[bytes]]


def image_header() -> Target:
    from support.image_files import IMAGE_FILES

    from mtl_perception.image.header import image_size, is_truncated

    def check(data: bytes) -> None:
        size = image_size(data)
        assert size is None or all(isinstance(side, int) for side in size)
        assert is_truncated(data) in (True, False)

    return check, IMAGE_FILES.values()


def compressed_image() -> Target:
    from support.image_files import IMAGE_FILES

    from mtl_perception.messages.decode import decode_compressed_image

    def check(data: bytes) -> None:
        decoded = decode_compressed_image(SimpleNamespace(format="jpeg", data=data))
        assert decoded.ndim == 3
        assert decoded.shape[2] == 3
        assert decoded.size
        assert decoded.dtype == "uint8"

    return check, IMAGE_FILES.values()


def image() -> Target:
    from mtl_perception.messages.decode import decode_image
    from mtl_perception.messages.encodings import PIXEL_LAYOUTS, SEMIPLANAR_LAYOUTS

    encodings = [*sorted(PIXEL_LAYOUTS), *SEMIPLANAR_LAYOUTS, "", "32FC1", "bayer_rggb32"]

    def check(data: bytes) -> None:
        fields = {name: int.from_bytes(data[4 * i : 4 * i + 4], "little") for i, name in enumerate(("width", "height", "step"))}
        encoding = encodings[data[12] % len(encodings)] if len(data) > 12 else ""
        message = SimpleNamespace(**fields, encoding=encoding, is_bigendian=data[13:14] == b"\1", data=data[14:])
        decoded = decode_image(message)
        assert decoded.shape == (fields["height"], fields["width"], 3)
        assert decoded.dtype == "uint8"

    def seed(number: int) -> bytes:
        step = 4 * PIXEL_LAYOUTS[encodings[number]].channels * PIXEL_LAYOUTS[encodings[number]].item_bytes
        return b"".join(value.to_bytes(4, "little") for value in (4, 3, step)) + bytes([number, 0]) + bytes(3 * step)

    return check, [seed(number) for number in range(len(PIXEL_LAYOUTS))]


def bags(suffix: str) -> list[bytes]:
    from support.bags import drive, write_bag

    kinds = {".bag": ("ros1", ("", "bz2")), ".mcap": ("mcap", ("", "zstd"))}
    kind, compressions = kinds[suffix]
    with tempfile.TemporaryDirectory() as folder:
        written = [write_bag(Path(folder) / f"{kind}{c}", kind, drive(kind, 2, (6, 8)), c) for c in compressions]
        return [(path if path.is_file() else next(path.glob(f"*{suffix}"))).read_bytes() for path in written]


def bag_scan() -> Target:
    from mtl_perception.sources.bag.scan import MCAP_MAGIC, ROS1_MAGIC, DamageError, scan

    def check(path: Path) -> None:
        try:
            for record in scan(path) if path.read_bytes().startswith((MCAP_MAGIC, ROS1_MAGIC)) else ():
                assert isinstance(record.topic, str)
                assert isinstance(record.data, bytes)
        except DamageError:
            pass

    return with_file(check, ".bag"), [*bags(".bag"), *bags(".mcap")]


def bag_records(suffix: str) -> Target:
    from mtl_perception.sources.bag.source import BagSource

    def check(path: Path) -> None:
        for frame in BagSource(path):
            assert frame.image.ndim == 3
            assert frame.image.shape[2] == 3

    return with_file(check, suffix), bags(suffix)


def calibration() -> Target:
    from camera.test_calibration_files import KITTI_ODOMETRY, KITTI_RAW, ROS_YAML

    from mtl_perception.camera.calibration import load_calibration

    def check(path: Path) -> None:
        assert load_calibration(path, size=(640, 480)).camera(rectified=True).fx > 0

    return with_file(check, ".yaml"), [text.encode() for text in (KITTI_ODOMETRY, KITTI_RAW, ROS_YAML)]


def small_description() -> str:
    from mtl_perception.labels import STREET
    from mtl_perception.network.description import KITTI_CAMERA, Description

    return Description("small", STREET.names, STREET.colors, camera=KITTI_CAMERA, groups={"all": (0, 12)}).to_json()


def description() -> Target:
    from mtl_perception.network.description import Description

    def check(data: bytes) -> None:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return
        parsed = Description.from_json(text)
        assert len(parsed.class_set()[0]) >= 1
        assert Description.from_json(parsed.to_json()) == parsed

    return check, [small_description().encode()]


def weights() -> Target:
    import torch
    from safetensors.torch import save

    from mtl_perception.weights.files import read_weights

    metadata = {"mtl_perception": small_description(), "format": "1"}
    intact = save({"segm.weight": torch.ones(2, 3), "segm.bias": torch.ones(2)}, metadata=metadata)

    def check(path: Path) -> None:
        state, made = read_weights(path)
        assert made.classes
        assert all(isinstance(name, str) for name in state)

    return with_file(check, ".safetensors"), [intact]


TARGETS: dict[str, Callable[[], Target]] = {
    "image_header": image_header,
    "image": image,
    "compressed_image": compressed_image,
    "bag_scan": bag_scan,
    "bag_ros1": lambda: bag_records(".bag"),
    "bag_mcap": lambda: bag_records(".mcap"),
    "calibration": calibration,
    "description": description,
    "weights": weights,
}


def with_file(check: Callable[[Path], None], suffix: str) -> Callable[[bytes], None]:
    """Return a check of bytes that writes them to a file in memory and passes its path."""
    memory = Path("/dev/shm")
    path = (memory if memory.is_dir() else Path(tempfile.gettempdir())) / f"fuzz-{os.getpid()}{suffix}"

    def check_bytes(data: bytes) -> None:
        # A new file each time, because the previous one may still be mapped.
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        try:
            check(path)
        finally:
            path.unlink(missing_ok=True)

    return check_bytes


def fuzz(name: str, seconds: float, replay: Path | None) -> None:
    """Fuzz one target. Does not return, because libFuzzer exits the process."""
    import atheris

    with atheris.instrument_imports(include=["mtl_perception"]):
        check, seeds = TARGETS[name]()
        from mtl_perception.errors import PerceptionError

    def one_input(data: bytes) -> None:
        text = "input accepted"
        try:
            check(data)
        except PerceptionError as error:
            text = str(error)
        # An error message is one line of limited length.
        assert text.isprintable(), repr(text)
        assert 10 < len(text) < 1000, text[:2000]

    folder = OUTPUT / name
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (folder / "corpus" / f"seed-{number}").write_bytes(seed)
    run = [str(replay)] if replay else [f"-max_total_time={seconds:.0f}", str(folder / "corpus")]
    atheris.Setup([sys.argv[0], *LIMITS, f"-artifact_prefix={folder}/", *run], one_input)
    atheris.Fuzz()


def fuzz_all(seconds: float) -> int:
    """Fuzz each target in its own process and print the number of inputs."""
    failed = 0
    quiet = {**os.environ, "OPENCV_LOG_LEVEL": "SILENT"}
    for name in TARGETS:
        (OUTPUT / name).mkdir(parents=True, exist_ok=True)
        log = OUTPUT / name / "log.txt"
        command = [sys.executable, __file__, name, "--seconds", str(seconds / len(TARGETS))]
        with log.open("wb") as file:
            code = subprocess.run(command, stdout=file, stderr=file, env=quiet).returncode
        text = log.read_text(errors="replace")
        done = re.search(r"Done (\d+) runs in (\d+) second", text)
        counts = re.findall(r"^#(\d+)\t", text, re.MULTILINE)
        runs = int(done[1]) if done else int(counts[-1]) if counts else 0
        failed += bool(code)
        print(f"{name:<34} {runs:>8,} inputs" + (f", FAULT (exit code {code}); see {log}" if code else ""), flush=True)
    return int(failed > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="?", choices=sorted(TARGETS), help="target to fuzz (default: all, one after another)")
    parser.add_argument("--seconds", type=float, default=600.0, help="total time (default: %(default)s)")
    parser.add_argument("--replay", type=Path, help="run only this input")
    args = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("coverage-guided fuzzing skipped: atheris is not installed; run pip install -r requirements/fuzz.txt")
        return 0
    if args.target is None:
        return fuzz_all(args.seconds)
    fuzz(args.target, args.seconds, args.replay)
    return 0


if __name__ == "__main__":
    sys.exit(main())
