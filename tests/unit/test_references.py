"""References in code and documents lead to files of the project, sections of its documents and numbered rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXTS = sorted(
    path
    for folder in ("alerce_spark", "benchmarks", "conf", "docs", "jobs", "notebooks", "tests")
    for pattern in ("*.py", "*.md", "*.toml")
    for path in (ROOT / folder).rglob(pattern)
) + sorted(ROOT.glob("*.md"))
#: The name of a document, then perhaps a section in quotes (which may begin on the next line of a comment) or a row.
REFERENCE = re.compile(r'(?<![\w(/"-])((?:docs/)?\w+\.md)\b(?!\()(?:,?[\s#]+"([^"]+)"|[\s#]+(D\d+)\b)?')
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def references(path: Path) -> Iterator[tuple[str, str | None, str | None]]:
    for found in REFERENCE.finditer(path.read_text(encoding="utf-8")):
        yield found[1], found[2], found[3]


def documents() -> dict[str, Path]:
    return {path.relative_to(ROOT).as_posix(): path for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]}


def headings(path: Path) -> set[str]:
    return {line.lstrip("#").strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_references_resolve(path: Path) -> None:
    known, wrong = documents(), []
    for name, section, row in references(path):
        document = known.get(name) or known.get(f"docs/{name}" if path.parent == ROOT / "docs" else name)
        if document is None:
            if name != "PROTOCOL.md":  # of the Delta project, named with it
                wrong.append(f"{name} is no document of the project")
        elif section is not None and " ".join(re.split(r"[\s#]+", section)) not in headings(document):
            wrong.append(f"{name} has no section {section!r}")
        elif row is not None and f"\n| {row} |" not in document.read_text(encoding="utf-8"):
            wrong.append(f"{name} has no row {row}")
    assert not wrong


@pytest.mark.parametrize("path", [p for p in TEXTS if p.suffix == ".md"], ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_of_documents_resolve(path: Path) -> None:
    targets = [link for link in LINK.findall(path.read_text(encoding="utf-8")) if "://" not in link]
    assert not [target for target in targets if not (path.parent / target).exists()]


def test_defect_marks_are_rows_of_differences() -> None:
    """A bare mark such as (D10) in the science rooms stands for a row of docs/differences.md."""
    rows = set(re.findall(r"^\| (D\d+) \|", (ROOT / "docs/differences.md").read_text(encoding="utf-8"), re.MULTILINE))
    for path in (ROOT / "alerce_spark").rglob("*.py"):
        marks = set(re.findall(r"\((D\d+)\)", path.read_text(encoding="utf-8")))
        assert marks <= rows, path
