"""Training sets: a bit-exact round trip through a table, provenance, and no leaks over a split."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import given
from hypothesis import strategies as st

from alerce_spark.classifiers import lightcurve
from alerce_spark.classifiers.taxonomy import LIGHTCURVE_CLASSES
from alerce_spark.errors import LakeError
from alerce_spark.features.names import FEATURES, FEATURES_VERSION
from alerce_spark.lake.handles import ORDER_PROPERTY
from alerce_spark.lake.tables import TABLES
from alerce_spark.nightly import training_sets
from alerce_spark.training import sets
from alerce_spark.training.sets import FeatureSet


def feature_set(seed: int, n: int = 90) -> FeatureSet:
    """Objects whose features lean on their class, a tenth of the values undefined, in no order."""
    rng = np.random.default_rng(seed)
    code = np.arange(n) % len(LIGHTCURVE_CLASSES)
    matrix = rng.normal(code[:, None], 2.0, (n, len(FEATURES)))
    matrix[rng.random(matrix.shape) < 0.1] = np.nan
    oid = np.array([f"S{seed}-{i:05d}" for i in rng.permutation(n)], object)
    labels = np.array([LIGHTCURVE_CLASSES[c] for c in code], object)
    ndet = rng.integers(6, 80, n).astype(np.int32)
    magnitude, ra, dec = rng.normal(18, 1, n), rng.uniform(0, 360, n), rng.uniform(-30, 90, n)
    return FeatureSet(oid, labels, matrix, ndet, magnitude, ra, dec, {"source": "test", "seed": str(seed)})


def test_a_set_comes_back_to_the_bit_in_the_order_of_oid(tmp_path: Path) -> None:
    kept = feature_set(1)
    named = training_sets.write(str(tmp_path), "lc", kept)
    assert named == "lc@0"
    found = training_sets.read(str(tmp_path), named)
    order = np.argsort(kept.oid.astype(str))
    for name in ("oid", "labels", "matrix", "ndet", "magnitude", "ra", "dec"):
        np.testing.assert_array_equal(getattr(found, name), getattr(kept, name)[order])
    assert found.provenance == kept.provenance


def test_every_version_stays_readable_with_its_own_provenance(tmp_path: Path) -> None:
    lake = str(tmp_path)
    names = [training_sets.write(lake, "lc", feature_set(seed)) for seed in (1, 2, 3)]
    assert names == ["lc@0", "lc@1", "lc@2"]
    assert [training_sets.read(lake, name).provenance["seed"] for name in names] == ["1", "2", "3"]
    assert training_sets.read(lake, "lc@0").oid[0].startswith("S1-")
    for bad in ("lc", "lc@3", "lc@-1", "other@0", "../lc@0"):
        with pytest.raises(LakeError):
            training_sets.read(lake, bad)


def test_the_same_set_and_seed_give_the_same_model_file(tmp_path: Path) -> None:
    digests = []
    for k, permuted in enumerate((False, True)):
        kept = feature_set(4)
        if permuted:
            kept = kept.take(np.random.default_rng(0).permutation(len(kept)))
        found = training_sets.read(str(tmp_path), training_sets.write(str(tmp_path), f"set{k}", kept))
        model = lightcurve.train(found.matrix, found.labels, seed=7, version="20260101.1", trees=3)
        model.save(tmp_path / f"{k}.forest")
        digests.append(hashlib.sha256((tmp_path / f"{k}.forest").read_bytes()).hexdigest())
    assert digests[0] == digests[1]


def test_sets_put_together_keep_rows_and_refuse_the_same_object_twice() -> None:
    one, two = feature_set(1, 20), feature_set(2, 30)
    both = sets.concatenate([one, two], use="training")
    assert len(both) == 50
    assert both.provenance == {"source": "test", "seed": "2", "use": "training"}
    assert both.counts() == {c: 4 if i < 5 else 3 for i, c in enumerate(LIGHTCURVE_CLASSES)}
    with pytest.raises(ValueError, match="share objects"):
        sets.concatenate([one, one])


def test_missing_columns_are_named() -> None:
    with pytest.raises(ValueError, match="lacks the columns ndet, rb"):
        sets.from_arrow(feature_set(1).to_arrow().drop_columns(["ndet", "rb"]), {})


@given(st.lists(st.text(max_size=12), min_size=1, unique=True), st.floats(0, 1))
def test_an_object_stays_on_its_side_of_the_split(names: list[str], share: float) -> None:
    alone = [bool(sets.held_out([name], share)[0]) for name in names]
    assert sets.held_out(names, share).tolist() == alone
    assert not any(
        held and not sets.held_out([n], min(1.0, share + 0.1))[0] for n, held in zip(names, alone, strict=True)
    )


def test_the_split_has_the_share_asked_for() -> None:
    held = sets.held_out([f"ZTF{i}" for i in range(20_000)], 0.2)
    assert held.mean() == pytest.approx(0.2, abs=0.01)


def lake_table(lake: Path, name: str, rows: list[dict[str, Any]]) -> None:
    """A table of the lake with these rows; required columns not given are nothing."""
    schema = TABLES[name].arrow
    nothing = {pa.string(): "", pa.bool_(): False, pa.float64(): 0.0}
    full = [{f.name: row.get(f.name, None if f.nullable else nothing.get(f.type, 0)) for f in schema} for row in rows]
    DeltaTable.create(
        lake / name, schema, mode="ignore", partition_by=["pixel"], configuration={ORDER_PROPERTY: "4"},
        raise_if_key_not_exists=False,
    )  # fmt: skip
    write_deltalake(lake / name, pa.Table.from_pylist(full, schema), mode="append")


@pytest.fixture
def lake(tmp_path: Path) -> str:
    """Objects a, b, c, d: b has older features, c only too short ones, d only some of an older definition."""

    def row(oid: str, mjd: float, std: float | None, ndet: int, **more: Any) -> dict[str, Any]:
        return {
            **{"oid": oid, "mjd": mjd, "candid": int(mjd), "ndet_used": ndet, "nown": ndet},
            **{"version": FEATURES_VERSION, "Std_1": std, **more},
        }

    lake_table(tmp_path, "features", [row("b", 59000, 0.1, 10), row("a", 59000, 0.5, 20), row("c", 59000, None, 0)])
    lake_table(tmp_path, "features", [row("b", 59010, 0.2, 11), row("b", 58990, 0.9, 9)])
    lake_table(
        tmp_path, "features", [row("d", 59000, 0.7, 12, version="0.0.1"), row("b", 59020, 0.8, 13, version="0.0.1")]
    )
    lake_table(tmp_path, "objects", [{"oid": o, "meanra": 10.0 + i, "meandec": 5.0} for i, o in enumerate("abcd")])
    magnitudes = [("a", 1, 15.0, None), ("a", 2, 14.0, 13.5), ("b", 1, 19.0, None), ("b", 3, 12.0, 12.0)]
    lake_table(
        tmp_path,
        "magstats",
        [{"oid": o, "fid": f, "magmean": m, "magmean_corr": c} for o, f, m, c in magnitudes],
    )
    return str(tmp_path)


def _labels(**names: str) -> pa.Table:
    return pa.table({"oid": list(names), "class_name": list(names.values())})


def test_labelled_objects_get_their_latest_features(lake: str) -> None:
    found = training_sets.from_lake(lake, _labels(b="QSO", a="RRL", c="E", d="E", z="E"))
    assert found.oid.tolist() == ["a", "b"]
    assert found.labels.tolist() == ["RRL", "QSO"]
    assert found.matrix[:, FEATURES.index("Std_1")].tolist() == [0.5, 0.2]
    assert np.isnan(found.matrix[:, FEATURES.index("Std_2")]).all()
    assert found.ndet.tolist() == [20, 11]
    assert found.magnitude.tolist() == [13.5, 19.0]
    assert found.ra.tolist() == [10.0, 11.0]
    assert found.provenance["features_version"] == "3"  # version 0 is the empty table
    assert found.provenance["objects_version"] == found.provenance["magstats_version"] == "1"


def test_the_checksum_of_labels_knows_no_order(lake: str) -> None:
    one = training_sets.from_lake(lake, _labels(b="QSO", a="RRL")).provenance["labels_sha256"]
    assert one == training_sets.from_lake(lake, _labels(a="RRL", b="QSO")).provenance["labels_sha256"]
    assert one != training_sets.from_lake(lake, _labels(a="RRL", b="AGN")).provenance["labels_sha256"]


def test_two_labels_of_an_object_are_refused(lake: str) -> None:
    twice = pa.table({"oid": ["a", "b", "a"], "class_name": ["QSO", "E", "AGN"]})
    with pytest.raises(ValueError, match="1 objects have two labels, among them 'a'"):
        training_sets.from_lake(lake, twice)
    assert len(training_sets.from_lake(lake, pa.table({"oid": ["a", "a"], "class_name": ["QSO", "QSO"]}))) == 1


def test_labels_of_nobody_are_an_error(lake: str) -> None:
    for names in ({"nobody": "QSO", "c": "RRL"}, {}):  # c has no features
        with pytest.raises(LakeError, match=f"none of the {len(names)} labelled objects is in"):
            training_sets.from_lake(lake, _labels(**names) if names else _labels(a="E").slice(0, 0))


def test_unlabelled_objects_are_drawn_by_the_seed(lake: str) -> None:
    assert training_sets.unlabelled(lake, ["b"], 10, 1).oid.tolist() == ["a"]
    assert len(training_sets.unlabelled(lake, [], 1, 1)) == 1
    drawn = {training_sets.unlabelled(lake, [], 1, seed).oid[0] for seed in range(20)}
    assert drawn == {"a", "b"}
