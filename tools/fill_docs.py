"""Write the tables of topics, parameters and commands into README.md; `--check` tells whether they are up to date."""

from __future__ import annotations

import sys
from pathlib import Path

from mtl_perception.__main__ import COMMANDS
from mtl_perception.cli.parameters import as_markdown
from mtl_perception.messages.topics import OUTPUT_TOPICS

README = Path(__file__).resolve().parents[1] / "README.md"

INPUTS = (
    (
        "in",
        "`image`",
        "sensor_msgs/Image",
        "any color or gray encoding; with `image_transport: compressed`, `image/compressed`",
    ),
    ("in", "`camera_info`", "sensor_msgs/CameraInfo", "the image topic's sibling unless remapped; the latest one is used"),
)
DIAGNOSTICS = ("out", "`/diagnostics`", "diagnostic_msgs/DiagnosticArray", "counts, rates, latencies, what is wrong and why")


def topics() -> str:
    """The table of topics."""
    outputs = [("out", f"`~/{row.name}`", row.type.replace("/msg/", "/"), row.content) for row in OUTPUT_TOPICS]
    lines = ["| direction | topic | type | content |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in (*INPUTS, *outputs, DIAGNOSTICS)]
    return "\n".join(lines) + "\n"


def commands() -> str:
    """The table of commands."""
    lines = ["| command | what it does |", "|---|---|"]
    lines += [f"| `{name}` | {command.help} |" for name, command in COMMANDS.items()]
    return "\n".join(lines) + "\n"


TABLES = {"topics": topics, "parameters": as_markdown, "commands": commands}


def filled(text: str) -> str:
    """The text with each table between its two markers made anew."""
    for name, table in TABLES.items():
        begin, end = f"<!-- {name}: made by tools/fill_docs.py -->\n", f"<!-- end of {name} -->"
        head, _, rest = text.partition(begin)
        _, found, tail = rest.partition(end)
        if not found:
            raise SystemExit(f"README.md: markers of the table of {name} are missing")
        text = f"{head}{begin}{table()}{end}{tail}"
    return text


def main() -> int:
    """Fill, or check."""
    text = README.read_text(encoding="utf-8")
    new = filled(text)
    if "--check" in sys.argv[1:]:
        if new != text:
            print("README.md: tables are out of date; run python tools/fill_docs.py")
        return int(new != text)
    README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
