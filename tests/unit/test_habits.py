"""Facts written twice agree: hooks and `make check`, versions of the citation, the changelog and the workflows.

And the text is plain English.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml
from packaging.specifiers import SpecifierSet

import alerce_spark

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _programs(target: str) -> set[str]:
    """Programs of the environment that a target of the Makefile runs, with their first word."""
    text = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)
    assert text is not None
    return set(re.findall(r"^\t\$\(BIN\)/(ruff \w+|\w+)", text[1], re.M))


def test_hooks_before_a_commit_are_those_of_make_check() -> None:
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"], "others would need a network"
    entries = {hook["entry"] for hook in repositories[0]["hooks"]}
    assert {re.sub(r"^\.venv/bin/| --force-exclude", "", entry) for entry in entries} == _programs("check")


def test_the_citation_names_this_package_and_a_version_of_the_changelog() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] == PROJECT["license"]
    assert str(citation["version"]) == alerce_spark.__version__
    released = f"## [{citation['version']}] - {citation['date-released']}\n"
    assert released in (ROOT / "CHANGELOG.md").read_text()


def test_the_changelog_has_the_parts_of_its_form() -> None:
    lines = (ROOT / "CHANGELOG.md").read_text().splitlines()
    versions = [line for line in lines if line.startswith("## ")]
    assert versions[0] == "## [Unreleased]"
    assert all(re.fullmatch(r"## \[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", line) for line in versions[1:])
    kinds = {line for line in lines if line.startswith("### ")}
    assert kinds <= {f"### {kind}" for kind in ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")}


def test_the_public_workflow_tests_every_python_that_the_package_promises() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    tested = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    promised = SpecifierSet(PROJECT["requires-python"])
    assert tested == [f"3.{minor}" for minor in range(30) if f"3.{minor}" in promised]
    named = [c.rpartition(" :: ")[2] for c in PROJECT["classifiers"] if "Python :: 3." in c]
    assert named == tested
    assert any("make test" in step.get("run", "") for step in workflow["jobs"]["test"]["steps"])


def test_a_release_builds_the_wheel_as_make_does() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    run = "\n".join(step.get("run", "") for step in workflow["jobs"]["release"]["steps"])
    assert "make wheel" in run
    assert 'alerce-spark" demo' in run
    assert _programs("wheel") == {"python"}


def test_text_is_plain_english() -> None:
    code = list((ROOT / "alerce_spark").rglob("*.py"))
    conf = [path for path in (ROOT / "conf").rglob("*") if path.is_file()]
    texts = {path: path.read_text() for path in [*code, *conf, *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]}
    foreign = re.compile(r'^\s*r?"""(?:What|Whoever) |\bfor ever\b|\banew\b', re.M)
    hits = ((path.relative_to(ROOT), hit[0].strip()) for path, text in texts.items() for hit in foreign.finditer(text))
    found = sorted({f"{path}: {phrase}" for path, phrase in hits})
    assert not found, "say what a thing is or does: " + ", ".join(found)
