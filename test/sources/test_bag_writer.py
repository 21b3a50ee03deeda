"""Bag writer: content, QoS, existing files and interruptions."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from rosbags.interfaces import QosDurability, QosReliability
from rosbags.rosbag2 import Reader
from support.bags import ROS2, assert_drive, drive

from mtl_perception.errors import SourceError
from mtl_perception.sources.bag.reader import open_bag
from mtl_perception.sources.bag.writer import BagWriter
from mtl_perception.sources.open import open_source
from mtl_perception.visualization import files


def small_text(number: int) -> bytes:
    message = ROS2.types["std_msgs/msg/String"](str(number))
    return bytes(ROS2.serialize_cdr(message, message.__msgtype__))


def run_script(script: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Run a script with BagWriter, SourceError, `path`, and `text(i)`, which makes an incompressible message of 1.2 MB."""
    prelude = """
        import random
        import sys
        from pathlib import Path
        from mtl_perception.errors import SourceError
        from mtl_perception.sources.bag.writer import BagWriter
        path = Path(sys.argv[1])

        def text(number):
            return b"\\0\\1\\0\\0" + (1_200_000).to_bytes(4, "little") + random.Random(number).randbytes(1_200_000)
    """
    code = textwrap.dedent(prelude) + textwrap.dedent(script)
    folder = Path(__file__).parents[2]
    return subprocess.run([sys.executable, "-c", code, path], cwd=folder, check=False, text=True, stdout=subprocess.PIPE)


def texts_of(path: Path) -> list[bytes]:
    """Return the messages on /text until the end or the damage."""
    found = []
    with contextlib.suppress(SourceError):
        for message in open_bag(path).messages(["/text"]):
            found.append(message.data)
    return found


class TestWriter:
    def fill(self, writer: BagWriter, count: int = 3) -> None:
        writer.add_topic("/latched", "std_msgs/msg/String", latched=True)
        for topic, message, time_ns in drive("mcap", count):
            writer.write_message(topic, message, time_ns)

    @pytest.mark.parametrize("name", ["out.mcap", "out"])
    def test_written_bag_is_read_back_unchanged(self, tmp_path, name):
        path = tmp_path / "new" / name
        with BagWriter(path) as writer:
            self.fill(writer)
            assert not path.exists(), "the bag appears only when it is complete"
            assert [entry.name for entry in path.parent.iterdir()] == [writer.partial.name], "until then it is visible"
            assert writer.partial.name == {"out.mcap": "out.partial.mcap", "out": "out.partial"}[name]
        assert path.is_file() == (name == "out.mcap")
        assert writer.count == 6
        assert_drive(list(open_source(path)), 3)
        assert [entry.name for entry in path.parent.iterdir()] == [name], "no temporary file remains"

    def test_bag_folder_has_matching_metadata(self, tmp_path):
        with BagWriter(tmp_path / "out") as writer:
            self.fill(writer)
        information = yaml.safe_load((tmp_path / "out" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
        assert information["relative_file_paths"] == ["out.mcap"]
        assert (tmp_path / "out" / "out.mcap").is_file()
        assert (information["version"], information["storage_identifier"], information["message_count"]) == (9, "mcap", 6)

    def test_serialized_messages_and_qos_are_stored(self, tmp_path):
        message = ROS2.types["std_msgs/msg/String"]("x")
        data = bytes(ROS2.serialize_cdr(message, message.__msgtype__))
        with BagWriter(tmp_path / "out.mcap") as writer:
            writer.add_topic("/latched", "std_msgs/msg/String", latched=True)
            writer.write("/latched", "std_msgs/msg/String", data, 5)
            writer.write("/plain", "std_msgs/msg/String", data, 6)
        with Reader(tmp_path / "out.mcap") as reader:
            assert [(connection.topic, time, raw) for connection, time, raw in reader.messages()] == [
                ("/latched", 5, data),
                ("/plain", 6, data),
            ]
            qos = {connection.topic: connection.ext.offered_qos_profiles for connection in reader.connections}
        for topic, durability in (("/latched", QosDurability.TRANSIENT_LOCAL), ("/plain", QosDurability.VOLATILE)):
            (profile,) = qos[topic]
            assert (profile.depth, profile.reliability, profile.durability) == (1, QosReliability.RELIABLE, durability)

    def test_unknown_message_type_is_refused(self, tmp_path):
        with (
            BagWriter(tmp_path / "out.mcap") as writer,
            pytest.raises(SourceError, match="unknown message type own_msgs/msg/Two of /two"),
        ):
            writer.add_topic("/two", "own_msgs/msg/Two")

    def test_existing_output_is_kept(self, tmp_path):
        path = tmp_path / "out.mcap"
        path.write_text("precious")
        with pytest.raises(SourceError, match=r"out\.mcap already exists"):
            BagWriter(path)
        assert path.read_text() == "precious"
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "thesis").write_text("precious")
        with pytest.raises(SourceError, match="is a folder but not a bag"):
            BagWriter(tmp_path / "home", force=True)
        assert (tmp_path / "home" / "thesis").exists()

    @pytest.mark.parametrize("name", ["out.mcap", "out"])
    def test_force_replaces_the_output_at_the_end(self, tmp_path, name):
        with BagWriter(tmp_path / name) as writer:
            self.fill(writer, 1)
        with BagWriter(tmp_path / name, force=True) as writer:
            self.fill(writer, 2)
            assert len(open_source(tmp_path / name)) == 1
        assert len(open_source(tmp_path / name)) == 2
        assert [entry.name for entry in tmp_path.iterdir()] == [name]

    def test_output_created_meanwhile_is_kept(self, tmp_path):
        path = tmp_path / "out.mcap"
        writer = BagWriter(path).__enter__()
        self.fill(writer, 2)
        path.write_text("precious")
        with pytest.raises(SourceError, match=r"already exists.*; the bag is in \S+$") as caught:
            writer.__exit__(None, None, None)
        assert path.read_text() == "precious"
        assert len(open_source(str(caught.value).rpartition(" ")[2])) == 2

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SourceError])
    def test_messages_before_an_error_are_kept(self, tmp_path, error):
        def write() -> None:
            with BagWriter(tmp_path / "out.mcap") as writer:
                self.fill(writer, 2)
                raise error

        with pytest.raises(error):
            write()
        assert [entry.name for entry in tmp_path.iterdir()] == ["out.partial.mcap"]
        assert_drive(list(open_source(tmp_path / "out.partial.mcap")), 2)
        with pytest.raises(
            SourceError, match=r"out\.mcap does not exist, but .*out\.partial\.mcap does, from a run that did not"
        ):
            open_source(tmp_path / "out.mcap")

    def test_error_before_the_first_message_leaves_no_file(self, tmp_path):
        def write() -> None:
            with BagWriter(tmp_path / "out.mcap") as writer:
                writer.add_topic("/a", "std_msgs/msg/String")
                raise SourceError("no frames")

        with pytest.raises(SourceError, match="no frames"):
            write()
        assert list(tmp_path.iterdir()) == []

    def test_bag_without_messages_can_be_read(self, tmp_path):
        with BagWriter(tmp_path / "out.mcap") as writer:
            writer.add_topic("/a", "std_msgs/msg/String")
        with Reader(tmp_path / "out.mcap") as reader:
            assert [connection.topic for connection in reader.connections] == ["/a"]

    @pytest.mark.parametrize("name", ["out.bag", "out.db3"])
    def test_other_formats_are_refused(self, tmp_path, name):
        with pytest.raises(SourceError, match=r"written as mcap; name it out\.mcap"):
            BagWriter(tmp_path / name)

    def test_unwritable_path_is_rejected(self, tmp_path):
        (tmp_path / "file").write_text("x")
        with pytest.raises(SourceError, match=r"out\.mcap cannot be written: "), BagWriter(tmp_path / "file" / "out.mcap"):
            pass

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    def test_full_disk_raises_an_error(self, tmp_path):
        writer = BagWriter(tmp_path / "out.mcap").__enter__()
        writer._writer.storage.bio.close()
        with open("/dev/full", "wb", buffering=0) as full:
            writer._writer.storage.bio = full
            with pytest.raises(SourceError, match=r"out\.mcap cannot be written: No space left"):
                writer.write("/a", "std_msgs/msg/String", bytes(2**21), 0)
            with pytest.raises(SourceError, match=r"out\.mcap could not be finished: an earlier message could not be written$"):
                writer.__exit__(None, None, None)
        assert list(tmp_path.iterdir()) == [], "there was no message before"

    @pytest.mark.parametrize("name", ["out.mcap", "out"])
    def test_messages_before_a_full_disk_are_kept(self, tmp_path, name):
        """The limit of the file's size acts like a full disk."""
        script = """
            import resource
            resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, 5_000_000))
            try:
                with BagWriter(path) as writer:
                    for i in range(8):
                        writer.write("/text", "std_msgs/msg/String", text(i), i)
            except SourceError as error:
                print(error)
        """
        output = run_script(script, tmp_path / name).stdout.strip()
        partial = tmp_path / name.replace("out", "out.partial")
        assert output == (
            f"output {tmp_path / name} cannot be written: File too large; what was written until then is in {partial}"
        )
        assert [entry.name for entry in tmp_path.iterdir()] == [partial.name]
        assert 3 <= len(texts_of(partial)) <= 5

    def test_full_disk_at_the_end_keeps_the_messages(self, tmp_path):
        """All messages fit, the index does not."""
        script = """
            import os
            import resource
            try:
                with BagWriter(path) as writer:
                    for i in range(3):
                        writer.write("/text", "std_msgs/msg/String", text(i), i)
                    writer.flush()
                    size = os.path.getsize(writer.partial)
                    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, size + 20))
            except SourceError as error:
                print(error)
        """
        output = run_script(script, tmp_path / "out.mcap").stdout.strip()
        partial = tmp_path / "out.partial.mcap"
        assert output == (
            f"output {tmp_path / 'out.mcap'} could not be finished: File too large; what was written until then is in {partial}"
        )
        assert len(texts_of(partial)) == 3

    @pytest.mark.parametrize("name", ["out.mcap", "out"])
    @pytest.mark.parametrize("phase", ["writing", "finishing", "metadata", "finished", "moving"])
    def test_killed_process_leaves_a_visible_bag_with_all_messages(self, tmp_path, name, phase):
        """The messages are small: rosbags alone would write none of them before the end."""
        folder = tmp_path / "bags"
        with BagWriter(folder / name) as writer:
            writer.write("/text", "std_msgs/msg/String", small_text(0), 0)
        script = f"""
            import os
            import signal
            from rosbags.rosbag2.storage_mcap import McapWriter

            def die(*arguments):
                os.kill(os.getpid(), signal.SIGKILL)

            move = BagWriter._move_in_place

            def move_and_die(self):
                Path.replace = die
                move(self)

            patches = {{
                "finishing": (McapWriter, "close", die),
                "metadata": (Path, "replace", die),
                "finished": (os, "fsync", die),
                "moving": (BagWriter, "_move_in_place", move_and_die),
            }}
            with BagWriter(path, force=True) as writer:
                for i in range(6):
                    writer.write("/text", "std_msgs/msg/String", text(i)[:16], i)
                writer.flush()
                if "{phase}" == "writing":
                    die()
                setattr(*patches["{phase}"])
        """
        assert run_script(script, folder / name).returncode == -signal.SIGKILL
        partial = name.replace("out", "out.partial")
        found = {entry.name for entry in folder.iterdir()}
        old = "out.replaced" if (name, phase) == ("out", "moving") else name
        assert found == {partial, old}, "the old bag is kept until the new one is complete"
        assert len(texts_of(folder / partial)) == 6
        assert len(texts_of(folder / old)) == 1

        # The next run.
        (folder / old).rename(folder / "kept")
        with pytest.raises(
            SourceError, match=rf"an earlier run did not finish and left .*{partial}; read it as it is or rename it"
        ):
            BagWriter(folder / name)
        assert len(texts_of(folder / partial)) == 6
        with BagWriter(folder / name, force=True) as writer:
            writer.write("/text", "std_msgs/msg/String", small_text(0), 0)
        assert {entry.name for entry in folder.iterdir()} == {name, "kept"}
        assert len(texts_of(folder / name)) == 1

    @pytest.mark.parametrize("force", [False, True])
    def test_bag_that_another_process_writes_is_not_touched(self, tmp_path, force):
        with BagWriter(tmp_path / "out.mcap") as writer:
            self.fill(writer, 2)
            with pytest.raises(SourceError, match=r"another process is writing .*out\.partial\.mcap$"):
                BagWriter(tmp_path / "out.mcap", force=force)
        assert_drive(list(open_source(tmp_path / "out.mcap")), 2)

    @pytest.mark.parametrize("name", ["out.mcap", "out"])
    @pytest.mark.parametrize("count", [0, 3])
    def test_unfinished_bag_of_another_process_gets_no_name(self, tmp_path, monkeypatch, name, count):
        """Without locks, a second process replaces the partial bag of the first, which finishes earlier."""
        monkeypatch.setattr(files, "_flock", lambda descriptor, kind: None)
        path = tmp_path / name
        first = BagWriter(path).__enter__()
        for i in range(count):
            first.write("/text", "std_msgs/msg/String", small_text(i), i)
        with BagWriter(path, force=True) as second:
            second.write("/text", "std_msgs/msg/String", small_text(10), 0)
            message = rf"{name}: another process has replaced .*out\.partial.*; do not write an output twice at the same time$"
            with pytest.raises(SourceError, match=message):
                first.__exit__(None, None, None)
            assert not path.exists()
            second.write("/text", "std_msgs/msg/String", small_text(11), 1)
        assert {entry.name for entry in tmp_path.iterdir()} == {name}
        assert texts_of(path) == [small_text(10), small_text(11)]

    def test_folder_with_other_content_is_not_replaced(self, tmp_path):
        (tmp_path / "out.partial").mkdir()
        (tmp_path / "out.partial" / "thesis").write_text("precious")
        with pytest.raises(SourceError, match=r"out\.partial is not replaced, because it contains thesis"):
            BagWriter(tmp_path / "out", force=True)
        assert (tmp_path / "out.partial" / "thesis").exists()

    @pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
    def test_ctrl_c_leaves_complete_records(self, tmp_path):
        """A process is interrupted while it writes large messages."""
        script = textwrap.dedent(
            """
            import signal
            import sys
            # A shell ignores SIGINT in its background jobs.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            from mtl_perception.sources.bag.writer import BagWriter
            with BagWriter(sys.argv[1]) as writer:
                text = writer.typestore.types["std_msgs/msg/String"]("x" * 3_000_000)
                data = bytes(writer.typestore.serialize_cdr(text, text.__msgtype__))
                for i in range(300):
                    writer.write("/text", text.__msgtype__, data, i)
                    if i == 5:
                        print("writing", flush=True)
            """
        )
        path = tmp_path / "out.mcap"
        process = subprocess.Popen(
            [sys.executable, "-c", script, path],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parents[2],
        )
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode != 0
        with Reader(path.with_name("out.partial.mcap")) as reader:
            records = [(time, len(raw)) for _, time, raw in reader.messages()]
            assert len(records) == reader.message_count >= 6
        assert [time for time, _ in records] == list(range(len(records)))
        assert len({length for _, length in records}) == 1, "every record is complete"
        assert records[0][1] > 3_000_000
