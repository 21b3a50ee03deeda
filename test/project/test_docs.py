"""The documentation agrees with the code."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(path.relative_to(ROOT) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def test_generated_tables_are_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("fill_docs", ROOT / "tools" / "fill_docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for file in module.TABLES:
        assert module.fill(file) == (ROOT / file).read_text(encoding="utf-8"), f"{file}: run python tools/fill_docs.py"


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_between_documents_have_targets(document: Path) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)", text)
    missing = [link for link in links if "://" not in link and not (ROOT / document).parent.joinpath(link).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_to_sections_have_targets(document: Path) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s:]*)#([^)\s]+)\)", text)
    missing = [
        f"{file}#{section}"
        for file, section in links
        if section not in sections((ROOT / document).parent / file if file else ROOT / document)
    ]
    assert not missing


def sections(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub and MkDocs form them."""
    # Without blocks of code, whose comments look like headings.
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_documents_have_no_placeholders(document: Path) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    assert not re.findall(r"^\W*[A-Z]+(?:_[A-Z]+)+\W*$|\b(?:TODO|TBD|FIXME)\b|(?i:to be filled)", text, re.MULTILINE)


def test_faults_name_existing_tests() -> None:
    text = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| fault ")]
    assert len(rows) > 40
    for row in rows:
        named = re.findall(r"`(\w+/test_\w+\.py)::(\w+)`", row)
        assert named, row
        for file, function in named:
            source = (ROOT / "test" / file).read_text(encoding="utf-8")
            assert re.search(rf"^ *(def|class) {function}\b", source, re.MULTILINE), f"{file} has no {function}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_files_that_documents_name_exist(document: Path) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z][\w.-]*/[\w./-]+\.(?:py|yaml|sh|xml|rviz))(?:::\w+)?`", text))
    roots = (ROOT, ROOT / "mtl_perception", ROOT / "test")
    missing = {file for file in named if "NAME" not in file and not any((root / file).exists() for root in roots)}
    assert not missing
