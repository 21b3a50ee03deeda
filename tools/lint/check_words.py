"""Check the wording of documents, docstrings, comments, messages and identifiers against CONTRIBUTING.md's word table.

Only words without false alarms are listed. A legitimate use in one file goes into ALLOWED.
Usage: `check_words.py [--count] [FILE…]`; without files, every file that git tracks is checked.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SUFFIXES = {".cfg", ".html", ".js", ".md", ".py", ".sh", ".toml", ".txt", ".xml", ".yaml", ".yml"}
SKIPPED = {"LICENSE", "test/project/test_check_words.py", "tools/lint/check_words.py"}

# Regular expression of whole words -> what to say instead. Plurals and capitals match too.
WORDS = {
    r"pictures?|pictured": "image, frame",
    r"pupils?": "student",
    r"anew": "again; rebuild, reinitialize",
    r"growing pauses?": "exponential backoff",
    r"(?:let|lets|letting) go of|(?:give|gives|giving|gave) back": "release, free, return",
    r"(?:takes?|took|taking) over": "fall back to",
    r"numbers? that (?:is|are) none|(?:is|are) no numbers?": "non-finite",
    r"teachers? words?|teacher's words?": "pseudo-label",
    r"what is learned from": "training sample",
    r"strips?(?= of rows)|row strips?": "row tiles",
    r"lanes?(?= of (?:a|the) gpu)": "stream",
    r"(?:drawn|drew|draws) by lot": "seeded, deterministic",
    r"kept away": "held out",
    r"for people": "human-readable",
    r"(?:is|are|was|were) told (?:of|about)": "receives, is notified of",
    r"(?:tells?|told) (?:of|apart)": "describe, report",
    r"stand-?ins?": "fake, test double",
    r"mend(?:s|ed|ing)?": "fix, repair",
    r"in vain": "without success",
    r"to be had": "available",
    r"beside other work": "on a loaded machine",
    r"whence|whereof|thereof|hitherto|nought|whilst|amongst|misspelt|learnt": "plain modern English",
}
# Words of identifiers, split at underscores and capitals: British spellings that codespell sees in whole words only.
IDENTIFIERS = {
    r"pictures?": "image, frame",
    r"pupils?": "student",
    r"colours?|coloured": "color",
    r"licences?": "license",
    r"metres?": "meters",
    r"grey": "gray",
    r"neighbours?": "neighbor",
    r"artefacts?": "artifact",
    r"labell(?:ed|ing)": "labeled, labeling",
    r"synchronis\w*|normalis\w*|initialis\w*|optimis\w*|serialis\w*|quantis\w*|summaris\w*": "-ize",
}
# Functions are verbs.
FUNCTIONS = r"said|shown|told|settle|give_back|let_go|made_anew"
ALLOWED: dict[str, Collection[str]] = {
    "CONTRIBUTING.md": WORDS,  # the word table itself
    # "picture" is a class of NYUDv2.
    "mtl_perception/labels.py": [r"pictures?|pictured"],
    "mtl_perception/mappings/nyud40.yaml": [r"pictures?|pictured"],
}

_PROSE = re.compile(r"(?<![\w-])(?:" + "|".join(f"({word})" for word in WORDS) + r")(?![\w-])", re.IGNORECASE)
_PART = re.compile("|".join(f"({word})" for word in IDENTIFIERS), re.IGNORECASE)
_FUNCTION = re.compile(rf"^\s*def ({FUNCTIONS})\(", re.MULTILINE)
_SPLIT = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def find(path: Path, allowed: Collection[str] = ()) -> Iterator[tuple[int, str, str]]:
    """Yield line number, word and replacement of each finding in a file."""
    text = path.read_text(encoding="utf-8", errors="replace")
    prose = _python_prose(path) if path.suffix == ".py" else list(enumerate(text.splitlines(), 1))
    for number, line in prose:
        for match in _PROSE.finditer(line):
            word, replacement = list(WORDS.items())[match.lastindex - 1]  # type: ignore[operator]
            if word not in allowed:
                yield number, match.group(), replacement
    if path.suffix == ".py":
        yield from _identifiers(path)
        for match in _FUNCTION.finditer(text):
            yield text.count("\n", 0, match.start()) + 1, f"def {match.group(1)}", "a verb that says what the function does"


def _python_prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the comments and strings of a Python file, line by line."""
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)}
    for token in _tokens(path):
        if token.type in kinds:
            for offset, line in enumerate(token.string.splitlines()):
                yield token.start[0] + offset, line.replace("_", " ")


def _identifiers(path: Path) -> Iterator[tuple[int, str, str]]:
    for token in _tokens(path):
        if token.type == tokenize.NAME:
            for part in _SPLIT.findall(token.string):
                if match := _PART.fullmatch(part):
                    yield token.start[0], token.string, list(IDENTIFIERS.values())[match.lastindex - 1]  # type: ignore[operator]


def _tokens(path: Path) -> Iterator[tokenize.TokenInfo]:
    with path.open("rb") as file:
        yield from tokenize.tokenize(file.readline)


def tracked_files() -> list[Path]:
    """Return the files that git tracks and whose text is checked."""
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def is_checked(path: Path) -> bool:
    """Return whether a file is text that this check reads."""
    name = path.relative_to(ROOT).as_posix()
    return name not in SKIPPED and (path.suffix in SUFFIXES or path.name in {"Makefile", "run"})


def main() -> int:
    """Print the findings, or their number by folder; return 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--count", action="store_true", help="print the number of findings by folder")
    args = parser.parse_args()
    counts: Counter[str] = Counter()
    for path in filter(is_checked, [file.resolve() for file in args.files] or tracked_files()):
        relative = path.relative_to(ROOT)
        for number, word, replacement in find(path, ALLOWED.get(relative.as_posix(), ())):
            counts["/".join(relative.parts[:2]) if len(relative.parts) > 2 else relative.parts[0]] += 1
            if not args.count:
                print(f"{relative}:{number}: {word!r}; say: {replacement}")
    if args.count:
        for folder, count in sorted(counts.items()):
            print(f"{count:6} {folder}")
    print(f"{counts.total()} findings" if counts else "no findings", file=sys.stderr)
    return int(bool(counts))


if __name__ == "__main__":
    sys.exit(main())
