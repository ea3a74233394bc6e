"""Dependencies go one way: science rooms know no Spark."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "alerce_spark"
SCIENCE = ("sky.py", "tablefiles", "alerts", "lightcurves", "features", "classifiers", "crossmatch", "simulation")
SCIENCE += ("training",)
ABOVE = ("lake", "streaming", "nightly", "kafka", "session", "cli", "demo")


def _files(rooms: tuple[str, ...] = SCIENCE) -> list[Path]:
    return [f for name in rooms for f in ([PACKAGE / name] if name.endswith(".py") else (PACKAGE / name).rglob("*.py"))]


def _imports(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("file", _files(), ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_science_imports_neither_spark_nor_what_stands_above_it(file: Path) -> None:
    for name in _imports(file):
        assert name.split(".")[0] not in ("pyspark", "delta", "deltalake", "pandas"), name
        assert not any(name.startswith(f"alerce_spark.{room}") for room in ABOVE), name


@pytest.mark.parametrize("file", _files(("serving", "api", "tns")), ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_services_import_neither_spark_nor_its_rooms(file: Path) -> None:
    for name in _imports(file):
        assert name.split(".")[0] not in ("pyspark", "delta"), name
        assert not any(name.startswith(f"alerce_spark.{room}") for room in ("streaming", "nightly", "session", "cli"))
        if "/api/" in str(file):  # SQL and Delta are the business of `serving`
            assert name.split(".")[0] != "sqlalchemy", name
            assert not name.startswith("alerce_spark.delta"), name


#: Modules that the room of Delta tables may import.
UNDER_DELTA = ("alerce_spark.delta", "alerce_spark.errors", "alerce_spark.location")


@pytest.mark.parametrize("file", _files(("delta",)), ids=lambda f: f.name)
def test_delta_knows_no_table_of_ours(file: Path) -> None:
    names = {name for name in _imports(file) if name.startswith("alerce_spark.")}
    assert all(name.startswith(UNDER_DELTA) for name in names), names
    ours = {"oid", "healpix29", "pixel", "candid", "survey", "detections", "objects", "alerce.sync"}
    texts = {n.value for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Constant)}
    assert not texts & ours


def test_delta_is_reached_through_the_lake() -> None:
    everything = [f.relative_to(PACKAGE) for f in PACKAGE.rglob("*.py")]
    users = {f for f in everything if any(n.startswith("alerce_spark.delta") for n in _imports(PACKAGE / f))}
    users |= {f for f in everything if "deltalake" in {n.split(".")[0] for n in _imports(PACKAGE / f)}}
    beyond = {f.as_posix() for f in users if f.parts[0] not in ("delta", "lake")}
    # `location` has delta-rs' files for Arrow. The last two write tables that are none of the lake's: features where
    # somebody wants them, and training sets, whose columns are those that `training` asks for.
    serving = {"serving/changes.py", "serving/scan.py"}
    assert beyond == {*serving, "location.py", "cli/science.py", "nightly/training_sets.py"}


@pytest.mark.parametrize("file", _files(("streaming",)), ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_the_stream_does_not_import_the_simulation(file: Path) -> None:
    assert not any(name.startswith("alerce_spark.simulation") for name in _imports(file))


def _all() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", _all(), ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_only_surveys_knows_a_survey_by_name(file: Path) -> None:
    """Others are handed a description. `simulation` may name ZTF, since its packets are those of this survey."""
    if file.relative_to(PACKAGE).parts[0] not in ("surveys", "simulation"):
        named = {f"alerce_spark.surveys.{f.stem}" for f in (PACKAGE / "surveys").glob("*.py")}
        assert not (named - {"alerce_spark.surveys.survey"}) & _imports(file)


@pytest.mark.parametrize(("room", "other"), [("lake", "training"), ("crossmatch", "training"), ("surveys", "alerts")])
def test_a_room_does_not_know_what_stands_above_it(room: str, other: str) -> None:
    for file in _files((room,)):
        assert not any(name.startswith(f"alerce_spark.{other}") for name in _imports(file)), file


def test_no_rooms_import_each_other() -> None:
    """Rooms are folders, and modules beside them; imports for type checking count too."""
    arrows: dict[str, set[str]] = {}
    for file in _all():
        room = _room(file.relative_to(PACKAGE).parts)
        arrows.setdefault(room, set())
        for name in _imports(file):
            if name.startswith("alerce_spark."):
                arrows[room].add(name.split(".")[1])
    arrows = {room: (to & arrows.keys()) - {room} for room, to in arrows.items()}
    reached = {room: set(to) for room, to in arrows.items()}
    for through in arrows:
        for room in arrows:
            if through in reached[room]:
                reached[room] |= reached[through]
    assert not {room for room, to in reached.items() if room in to}


def _room(parts: tuple[str, ...]) -> str:
    return parts[0] if len(parts) > 1 else parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", _files(("client",)), ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_the_client_knows_the_server_by_its_routes_alone(file: Path) -> None:
    own = ("alerce_spark.client", "alerce_spark.errors")
    own += ("alerce_spark.kafka",) if file.name == "stream.py" else ()
    assert [name for name in _imports(file) if name.startswith("alerce_spark.") and not name.startswith(own)] == []
