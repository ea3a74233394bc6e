"""The registry of models without Spark: one current version, whatever happens, and workers that follow it."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from alerce_spark.classifiers.artefact import ModelError
from alerce_spark.classifiers.taxonomy import LIGHTCURVE, OUTLIER, STAMP
from alerce_spark.errors import LakeError
from alerce_spark.lake import models
from alerce_spark.lake.handles import delta_table
from alerce_spark.lake.models import Served, bootstrap
from alerce_spark.lake.serving import refuse_other_models
from alerce_spark.lake.tables import TABLES


@dataclass(frozen=True)
class Text:
    """A model whose file is its version."""

    version: str


def load_text(path: Path) -> Text:
    content = path.read_text()
    if content.startswith("unloadable"):
        raise RuntimeError("the library says no")
    return Text(content)


@pytest.fixture
def lake(tmp_path: Path) -> str:
    return str(tmp_path / "lake")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


def registered(lake: str, files: Path, *versions: str, classifier: str = LIGHTCURVE) -> None:
    for version in versions:
        file = files / "model.txt"
        file.write_text(f"model {version}")
        models.register(lake, classifier, version, file, metrics={"f1": 0.5}, training_set="sets@3")


def states(lake: str, classifier: str = LIGHTCURVE) -> dict[str, str]:
    found = models.listing(lake, classifier)
    return dict(zip(found["version"].to_pylist(), found["state"].to_pylist(), strict=True))


def versions_of(lake: str) -> int:
    return int(delta_table(lake, "models").version())


def test_register_copies_the_file_and_makes_the_table(lake: str, files: Path) -> None:
    registered(lake, files, "1")
    found = models.listing(lake)
    assert found.schema.equals(TABLES["models"].arrow)
    row = found.to_pylist()[0]
    assert (row["classifier"], row["version"], row["state"]) == (LIGHTCURVE, "1", "candidate")
    assert (row["training_set"], row["metrics"]) == ("sets@3", [("f1", 0.5)])
    assert row["artefact"].startswith(f"_models/{LIGHTCURVE}/1/")
    assert (Path(lake) / row["artefact"]).read_text() == "model 1"
    assert models.current(lake, LIGHTCURVE) is None
    assert [f.suffix for f in (Path(lake) / row["artefact"]).parent.iterdir()] == [".txt"]


def test_the_table_is_that_of_the_definition(lake: str, files: Path) -> None:
    registered(lake, files, "1")
    handle = delta_table(lake, "models")
    stored = {f.name: f for f in handle.schema().fields}
    for column in TABLES["models"].columns:
        assert stored[column.name].nullable is not column.required
        assert stored[column.name].metadata["comment"] == column.description
    with pytest.raises(DeltaError, match="validation"):
        handle.update({"state": "'bad'"})


def test_promote_retire_roll_back(lake: str, files: Path) -> None:
    registered(lake, files, "1", "2", "3")
    registered(lake, files, "1", classifier=STAMP)
    models.promote(lake, STAMP, "1")
    for version in "123":
        before = versions_of(lake)
        assert models.promote(lake, LIGHTCURVE, version).state == "current"
        assert versions_of(lake) == before + 1  # one commit: no reader sees none or two
    assert states(lake) == {"1": "retired", "2": "retired", "3": "current"}
    assert models.roll_back(lake, LIGHTCURVE).version == "2"
    assert states(lake) == {"1": "retired", "2": "current", "3": "retired"}
    assert models.roll_back(lake, LIGHTCURVE).version == "1"
    with pytest.raises(LakeError, match="promote one by name"):
        models.roll_back(lake, LIGHTCURVE)
    models.promote(lake, LIGHTCURVE, "3")
    assert models.roll_back(lake, LIGHTCURVE).version == "1"
    assert models.retire(lake, LIGHTCURVE, "1").state == "retired"
    assert models.current(lake, LIGHTCURVE) is None
    assert states(lake, STAMP) == {"1": "current"}


def test_a_retired_version_is_not_rolled_back_to(lake: str, files: Path) -> None:
    registered(lake, files, "1", "2", "3")
    for version in "123":
        models.promote(lake, LIGHTCURVE, version)
    models.retire(lake, LIGHTCURVE, "2")
    assert models.roll_back(lake, LIGHTCURVE).version == "1"


def test_rolls_back_to_another_version_than_the_current(lake: str, files: Path) -> None:
    registered(lake, files, "1", "2", "3")
    for version in "123":
        models.promote(lake, LIGHTCURVE, version)
    models.retire(lake, LIGHTCURVE, "3")
    models.promote(lake, LIGHTCURVE, "2")
    assert models.roll_back(lake, LIGHTCURVE).version == "1"


def test_what_was_current_before_survives_other_commits(lake: str, files: Path) -> None:
    registered(lake, files, "1", "2")
    models.promote(lake, LIGHTCURVE, "1")
    models.promote(lake, LIGHTCURVE, "2")
    handle = delta_table(lake, "models")
    handle.alter.set_table_properties({"delta.logRetentionDuration": "interval 60 days"})
    handle.create_checkpoint()
    assert models.roll_back(lake, LIGHTCURVE).version == "1"


def test_what_changes_nothing_commits_nothing(lake: str, files: Path) -> None:
    registered(lake, files, "1")
    models.promote(lake, LIGHTCURVE, "1")
    before = versions_of(lake)
    registered(lake, files, "1")
    models.promote(lake, LIGHTCURVE, "1")
    assert versions_of(lake) == before
    assert states(lake) == {"1": "current"}


def test_registered_as_current_in_one_commit(lake: str, files: Path) -> None:
    registered(lake, files, "1")
    models.promote(lake, LIGHTCURVE, "1")
    before = versions_of(lake)
    (files / "m").write_text("model 2")
    assert models.register(lake, LIGHTCURVE, "2", files / "m", state="current").state == "current"
    assert versions_of(lake) == before + 1
    assert states(lake) == {"1": "retired", "2": "current"}


def test_a_version_is_never_overwritten(lake: str, files: Path) -> None:
    registered(lake, files, "1")
    (files / "model.txt").write_text("another")
    with pytest.raises(LakeError, match="registered with another file"):
        models.register(lake, LIGHTCURVE, "1", files / "model.txt")
    models.promote(lake, LIGHTCURVE, "1")  # its file is still whole


@pytest.mark.parametrize("name", ["", "..", "a/b", "../x", ".hidden", "a\n", "x" * 300])
def test_names_cannot_lead_out_of_the_folder(lake: str, files: Path, name: str) -> None:
    (files / "m").write_text("m")
    with pytest.raises(LakeError, match="cannot be a name"):
        models.register(lake, LIGHTCURVE, name, files / "m")
    with pytest.raises(LakeError, match=r"no classifier .* there are lc_classifier, stamp_classifier, outlier"):
        models.register(lake, name, "1", files / "m")
    with pytest.raises(LakeError, match="no model file"):
        models.register(lake, LIGHTCURVE, "1", files / "n")
    with pytest.raises(LakeError, match="not as 'retired'"):
        models.register(lake, LIGHTCURVE, "1", files / "m", state="retired")


def test_unknown_versions_and_lakes(lake: str, files: Path) -> None:
    for read in (models.listing, lambda lake: models.current(lake, LIGHTCURVE)):
        with pytest.raises(LakeError, match="make the lake with"):
            read(lake)
    registered(lake, files, "1", "2")
    for change in (models.promote, models.retire):
        with pytest.raises(LakeError, match=f"no version 7 of {LIGHTCURVE}; there are 1, 2"):
            change(lake, LIGHTCURVE, "7")


def artefact_of(lake: str, version: str) -> Path:
    rows = models.listing(lake, LIGHTCURVE).to_pylist()
    return Path(lake) / next(row["artefact"] for row in rows if row["version"] == version)


def test_a_damaged_or_missing_file_is_not_promoted(lake: str, files: Path) -> None:
    registered(lake, files, "1", "2")
    models.promote(lake, LIGHTCURVE, "1")
    artefact_of(lake, "2").write_text("model 3")
    with pytest.raises(LakeError, match="does not have its checksum"):
        models.promote(lake, LIGHTCURVE, "2")
    artefact_of(lake, "2").unlink()
    with pytest.raises(LakeError, match="cannot read"):
        models.promote(lake, LIGHTCURVE, "2")
    assert states(lake) == {"1": "current", "2": "candidate"}


def test_rows_cannot_name_files_elsewhere(lake: str, files: Path) -> None:
    registered(lake, files, "1")
    for path in ("/etc/hostname", "_models/../../files/model.txt"):
        delta_table(lake, "models").update({"artefact": f"'{path}'"})
        with pytest.raises(LakeError, match="not in the folder of the models"):
            models.promote(lake, LIGHTCURVE, "1")


def test_changes_at_the_same_time_leave_one_current(lake: str, files: Path) -> None:
    versions = [str(v) for v in range(8)]
    for version in versions:
        (files / version).write_text(f"model {version}")
    with ThreadPoolExecutor(8) as pool:
        # Registration makes the table, in several threads at once.
        list(pool.map(lambda v: models.register(lake, LIGHTCURVE, v, files / v), versions))
        assert set(states(lake).values()) == {"candidate"}
        assert len(states(lake)) == 8
        list(pool.map(lambda v: models.promote(lake, LIGHTCURVE, v), versions))
    assert sorted(states(lake).values()) == ["current"] + ["retired"] * 7
    was = [models.current(lake, LIGHTCURVE)]
    was += [models.roll_back(lake, LIGHTCURVE) for _ in range(7)]
    assert {entry.version for entry in was if entry} == set(versions)
    for version in range(1, versions_of(lake)):
        rows = DeltaTable(f"{lake}/models", version=version).to_pyarrow_table()["state"].to_pylist()
        assert rows.count("current") <= 1


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def served(lake: str, files: Path, clock: Clock) -> Served[Text]:
    (files / "fallback").write_text("bootstrap")
    return Served(lake, LIGHTCURVE, load_text, files / "fallback", clock)


def test_a_worker_follows_promotions(lake: str, files: Path, served: Served[Text]) -> None:
    assert served.get() == (Text("bootstrap"), "bootstrap")  # no table
    registered(lake, files, "1", "2")
    registered(lake, files, "9", classifier=STAMP)
    models.promote(lake, STAMP, "9")
    assert served.get()[1] == "bootstrap"  # nothing promoted
    models.promote(lake, LIGHTCURVE, "1")
    assert served.get() == (Text("model 1"), "1")
    assert served.get()[0] is served.get()[0]
    models.promote(lake, LIGHTCURVE, "2")
    assert served.get() == (Text("model 2"), "2")
    models.roll_back(lake, LIGHTCURVE)
    assert served.get() == (Text("model 1"), "1")
    models.retire(lake, LIGHTCURVE, "1")
    assert served.get() == (Text("bootstrap"), "bootstrap")
    assert served.alarm is None


def _damage(file: Path) -> None:
    file.write_bytes(b"\0" + file.read_bytes()[1:])


@pytest.mark.parametrize(
    ("harm", "what"),
    [(_damage, "does not have its checksum"), (Path.unlink, "cannot read _models/lc_classifier/2/")],
    ids=["damaged", "missing"],
)
def test_a_file_that_cannot_be_used_changes_nothing(
    lake: str, files: Path, served: Served[Text], clock: Clock, harm: object, what: str
) -> None:
    registered(lake, files, "1", "2")
    models.promote(lake, LIGHTCURVE, "1")
    before = served.get()
    models.promote(lake, LIGHTCURVE, "2")
    file = artefact_of(lake, "2")
    whole = file.read_bytes()
    harm(file)  # type: ignore[operator]
    assert served.get() is before
    assert served.alarm is not None
    assert what in served.alarm
    file.write_bytes(whole)
    assert served.get() is before  # not tried again at once
    clock.now += 1.1
    assert served.get() == (Text("model 2"), "2")
    assert served.alarm is None


def test_tries_again_less_and_less_often(lake: str, files: Path, served: Served[Text], clock: Clock) -> None:
    (files / "m").write_text("unloadable")
    served.get()
    models.register(lake, LIGHTCURVE, "1", files / "m", state="current")
    tried = []
    served._loader = lambda path: tried.append(clock.now) or load_text(path)  # type: ignore[func-returns-value]
    for _ in range(4000):
        clock.now += 0.1
        assert served.get()[1] == "bootstrap"
    assert served.alarm == f"{LIGHTCURVE}: the library says no"
    waits = [round(b - a) for a, b in pairwise(tried)]
    assert waits[:7] == [1, 2, 4, 8, 16, 32, 60]
    assert set(waits[7:]) == {60}


def test_a_lake_that_goes_away(lake: str, files: Path, served: Served[Text], clock: Clock) -> None:
    registered(lake, files, "1")
    models.promote(lake, LIGHTCURVE, "1")
    before = served.get()
    shutil.move(lake, f"{lake}.away")
    assert served.get() is before
    clock.now += 100
    assert served.get() is before
    shutil.move(f"{lake}.away", lake)
    clock.now += 100
    models.retire(lake, LIGHTCURVE, "1")
    assert served.get()[1] == "bootstrap"
    assert served.alarm is None


def test_without_any_model(lake: str, files: Path) -> None:
    served = Served(lake, LIGHTCURVE, load_text)
    with pytest.raises(ModelError, match=f"no model of {LIGHTCURVE} was promoted in"):
        served.get()
    (files / "m").write_text("unloadable")
    models.register(lake, LIGHTCURVE, "1", files / "m", state="current")
    with pytest.raises(ModelError, match="the library says no"):
        served.get()


def test_bootstrap_files_are_there_or_none() -> None:
    for classifier in (LIGHTCURVE, STAMP):
        path = bootstrap(classifier)
        assert path is None or path.is_file()


def test_a_file_of_another_classifier_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.csv").write_text("oid\n1\n")
    shipped = {name: models.bootstrap(name) for name in (LIGHTCURVE, STAMP, OUTLIER)}
    for classifier, right in shipped.items():
        assert right is not None
        refuse_other_models(classifier, right)
        for file in (*(f for f in shipped.values() if f not in (None, right)), tmp_path / "text.csv"):
            assert file is not None
            with pytest.raises(LakeError, match=f"is no model of {classifier}"):
                refuse_other_models(classifier, file)
    with pytest.raises(LakeError, match="no classifier 'nonsense'"):
        refuse_other_models("nonsense", tmp_path / "text.csv")
