"""First run of a new user: locked versions, messages before anything starts, progress, a README that is true."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from rich.console import Console
from typer.testing import CliRunner

from alerce_spark import daemon, demo, jars, needs
from alerce_spark.cli import common
from alerce_spark.errors import InputError
from alerce_spark.needs import MissingError
from alerce_spark.profiles import profile
from alerce_spark.progress import Stages
from alerce_spark.streaming import kernels

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINNED = re.compile(
    r"^([A-Za-z0-9._-]+)(?:\[.*\])?==([^ ]+)(?: ; .*?)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.M
)


def _pins(name: str) -> dict[str, Version]:
    """Packages of a file of requirements/ that have a version and a hash. Nothing else may be in it."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    assert PINNED.sub("", text).strip() == ""
    return {str(canonicalize_name(found[1])): Version(found[2]) for found in PINNED.finditer(text)}


def _wanted(lines: list[str]) -> list[Requirement]:
    return [r for r in map(Requirement, lines) if r.name != PROJECT["project"]["name"]]


@pytest.mark.parametrize(
    ("file", "lines"),
    [
        ("plain", PROJECT["project"]["dependencies"]),
        ("all", sum(PROJECT["project"]["optional-dependencies"].values(), PROJECT["project"]["dependencies"])),
        ("build", PROJECT["dependency-groups"]["build"] + PROJECT["build-system"]["requires"]),
    ],
)
def test_every_dependency_is_pinned_with_hashes_to_a_version_that_it_allows(file: str, lines: list[str]) -> None:
    pins = _pins(file)
    assert {r.name for r in _wanted(lines) if canonicalize_name(r.name) not in pins} == set()
    assert {r.name for r in _wanted(lines) if pins[canonicalize_name(r.name)] not in r.specifier} == set()


def test_development_adds_to_the_plain_installation_and_changes_nothing_of_it() -> None:
    plain, everything = _pins("plain"), _pins("all")
    assert plain.items() <= everything.items()
    assert not {"tensorflow-cpu", "scikit-learn", "imbalanced-learn", "onnx", "pytest", "mypy"} & plain.keys()


def test_the_demo_and_the_command_need_only_the_plain_installation() -> None:
    # As if nothing else were installed: whoever asks for it gets an ImportError.
    code = """
import sys
from importlib.machinery import PathFinder
from importlib.metadata import packages_distributions
from packaging.utils import canonicalize_name

allowed = set(sys.argv[1:])
owners = packages_distributions()
hidden = {top for top, names in owners.items() if not allowed & {canonicalize_name(name) for name in names}}

class Plain(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else PathFinder.find_spec(name, path, target)

assert "pytest" in hidden
sys.meta_path[sys.meta_path.index(PathFinder)] = Plain
import numpy as np
import alerce_spark.cli, alerce_spark.demo
from alerce_spark.training import figures, metrics
figures.confusion(metrics.evaluate("stamp", ("SN", "AGN"), np.array([0, 1]), np.array([0, 1])))
print("done")
"""
    own = ("alerce-spark", "setuptools")  # setuptools: its .pth file of an environment's start
    command = [sys.executable, "-W", "ignore", "-c", code, *_pins("plain"), *own]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.stdout, run.stderr) == ("done\n", "")


def test_java_archives_of_the_profile_and_of_the_broker_are_known_by_hash() -> None:
    for packages in (profile("local")["spark.jars.packages"], profile("laptop")["spark.jars.packages"], jars.KAFKA):
        known = jars.locked(packages)
        assert known is not None
        assert set(packages.split(",")) <= known.files.keys()
        assert all(re.fullmatch(r"[0-9a-f]{64}", sha256) and size > 0 for sha256, size in known.files.values())
    assert jars.locked("org.example:other:1.0") is None


def test_a_java_archive_that_was_changed_is_refused_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ivy(packages: list[str], scratch: Path, out: Path, transitive: bool) -> None:
        out.mkdir(parents=True)
        (out / "org.example_tool-1.0.jar").write_bytes(content)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(jars, "_ivy", ivy)
    # sha256sum of the four bytes "good".
    good = "770e607624d689265ca6c44884d0807d9b054d23c473c106c72be9de08b7376c"
    tool = jars.Jars({"org.example:tool:1.0": (good, 4)})
    content = b"evil"
    with pytest.raises(jars.JarError, match=r"org\.example:tool:1\.0 as fetched has SHA-256"):
        tool.fetch()
    assert tool.missing_bytes == 4
    content = b"good"
    assert [file.read_bytes() for file in tool.fetch()] == [b"good"]
    assert tool.missing_bytes == 0
    content = b"not fetched a second time"
    assert [file.read_bytes() for file in tool.fetch()] == [b"good"]


def _java(folder: Path, said: str) -> Path:
    program = folder / "bin" / "java"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f"#!/bin/sh\necho '{said}' >&2\n")
    program.chmod(0o755)
    return program


def test_java_that_is_missing_or_too_old_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(MissingError, match=r"has no bin/java\. Install Java 17 or newer"):
        needs.java()
    for said, version in (('java version "1.8.0_392"', "8"), ('openjdk version "11.0.2" 2019-01-15', "11")):
        _java(tmp_path, said)
        with pytest.raises(MissingError, match=f"is Java {version}. Install Java 17"):
            needs.java()
    _java(tmp_path, "The operation could not be completed. Unable to locate a Java Runtime.")
    with pytest.raises(MissingError, match="Unable to locate a Java Runtime"):
        needs.java()
    for said in ('openjdk version "17.0.15" 2025-04-15', 'openjdk version "25" 2025-09-16'):
        program = _java(tmp_path, said)
        assert needs.java() == str(program)


def test_a_full_disk_is_named_with_what_is_needed(tmp_path: Path) -> None:
    needs.space(tmp_path / "not" / "there" / "yet", 1, "The demo")
    with pytest.raises(MissingError, match=r"The demo needs 1152921504\.6 GB on the disk of .* GB are free"):
        needs.space(tmp_path, 1 << 60, "The demo")


def test_a_folder_with_something_else_in_it_is_never_emptied(tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"holds thesis\.tex, which no demo made"):
        demo._clear(tmp_path)
    assert (tmp_path / "thesis.tex").exists()
    (tmp_path / "thesis.tex").unlink()
    demo._clear(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_a_terminal_stages_and_counts_are_lines_at_a_bounded_rate() -> None:
    out, now = io.StringIO(), 0.0
    console = Console(file=out, width=40)
    with Stages(console, clock=lambda: now) as stages:
        with stages.stage("starting Kafka"):
            now = 3.0
        with stages.stage("streaming"):
            for second in range(1000):
                now = 3.0 + second / 10
                stages.counts({"archive": second, "photometry": second // 2}, 1000)
            for _ in range(600):  # nothing changes for a minute
                now += 0.1
                stages.counts({"archive": 999, "photometry": 999}, 1000)
    lines = out.getvalue().splitlines()
    assert lines[0] == "    0 s  starting Kafka …"
    assert lines[1] == "    3 s  streaming …"
    assert lines[2] == "    8 s    archive 50/1000, photometry 25/1000"
    # 100 s in steps of 5 s, and the last counts once.
    assert len(lines) == 2 + 19 + 1
    assert lines[-1].endswith("archive 999/1000, photometry 999/1000")
    assert stages.seconds["starting Kafka"] == 3.0
    console.print(stages.table())
    assert re.search(r"starting Kafka +│ 3\.0", out.getvalue())


def test_on_a_terminal_there_are_bars_and_no_lines() -> None:
    out = io.StringIO()
    with Stages(Console(file=out, width=100, force_terminal=True)) as stages, stages.stage("starting Kafka"):
        stages.counts({"archive": 7}, 1000)
    assert "starting Kafka …" not in out.getvalue()
    assert "1/1" in out.getvalue()
    assert "7/1000" in out.getvalue()


def test_kernels_are_compiled_by_one_process_and_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    mark, calls = kernels._mark(), tmp_path / "calls"
    compiler = tmp_path / "python"
    compiler.write_text(f'#!/bin/sh\necho "$@" >> {calls}\nmkdir -p {mark.parent} && touch {mark}\n')
    compiler.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(compiler))
    for _ in range(3):
        kernels.compile_once()
    assert calls.read_text() == "-W ignore -m alerce_spark.streaming.kernels\n"
    monkeypatch.setattr(kernels.numba, "__version__", "another")
    assert not kernels.are_compiled()
    compiler.write_text("#!/bin/sh\necho no room >&2; exit 1\n")
    with pytest.raises(kernels.KernelError, match="no room"):
        kernels.compile_once()


def test_a_worker_whose_connection_is_closed_ends_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(sock: object, authenticated: bool) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(daemon, "_work", broken)
    assert daemon.worker(None, True) == 1  # type: ignore[arg-type]
    for name in ("local", "laptop"):
        assert profile(name)["spark.python.daemon.module"] == daemon.__name__


TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.name)
def test_commands_and_targets_of_the_texts_exist(text: Path) -> None:
    said = text.read_text()
    makefile, known = (ROOT / "Makefile").read_text(), CliRunner().invoke(common.app, ["--help"]).output
    targets = set(re.findall(r"(?:^|`)make ([a-z]+)", said, re.M))
    assert {t for t in targets if not re.search(rf"^{t}:.*##", makefile, re.M)} == set()
    commands = set(re.findall(r"(?:^|`|bin/)alerce-spark ([a-z][a-z-]+)", said, re.M))
    assert {c for c in commands if not re.search(rf"^\W*{c} ", known, re.M)} == set()
    if text.name == "README.md":
        assert {"demo", "test"} <= targets


def test_a_demo_in_the_background_leaves_its_children_a_sigterm_that_ends_them() -> None:
    """A shell has its background jobs ignore SIGINT; what the demo starts must still end at SIGTERM."""
    program = """
import signal, subprocess, sys
from alerce_spark import demo
from alerce_spark.cli import app
demo.run = lambda *_: print(subprocess.run([sys.executable, "-c", "import signal; print(signal.getsignal(15))"],
                                           capture_output=True, text=True).stdout)
app(["demo"])
"""
    command = [sys.executable, "-c", f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{program}"]
    output = subprocess.run(command, capture_output=True, text=True, check=False)
    assert output.stdout.strip() == "0", output  # SIG_DFL
