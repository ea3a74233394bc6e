"""The hierarchy of forests: training, probabilities, model files, tables in and out."""

from __future__ import annotations

import hashlib
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from astropy.table import Table
from numpy.typing import NDArray

from alerce_spark.classifiers import lightcurve
from alerce_spark.classifiers.artefact import ModelError
from alerce_spark.classifiers.lightcurve import LightcurveModel, classify_table, load, read_features, train
from alerce_spark.classifiers.taxonomy import BRANCHES, LIGHTCURVE_CLASSES, branch_of
from alerce_spark.errors import InputError
from alerce_spark.features.names import FEATURES, FEATURES_VERSION

SEED = 11
TREES = 12

ensemble = pytest.importorskip("imblearn.ensemble", reason="needs the extra `training`")

Sample = tuple[NDArray[np.float64], list[str]]


def sample(seed: int, classes: tuple[str, ...] = LIGHTCURVE_CLASSES, each: int = 30) -> Sample:
    """Objects with a fifth of the features missing; few features depend on the class, and weakly."""
    centres = np.random.default_rng(SEED).normal(0, 1.2, (len(LIGHTCURVE_CLASSES), len(FEATURES)))
    centres[:, 20:] = 0
    rng = np.random.default_rng(seed)
    labels = [name for name in classes for _ in range(each)]
    matrix = rng.normal(centres[[LIGHTCURVE_CLASSES.index(name) for name in labels]], 1.0)
    matrix[rng.random(matrix.shape) < 0.2] = np.nan
    return matrix, labels


@pytest.fixture(scope="module")
def model() -> LightcurveModel:
    return train(*sample(1), seed=SEED, version="test-1", trees=TREES)


def test_each_level_is_the_balanced_forest_of_the_paper(model: LightcurveModel) -> None:
    matrix, labels = sample(1)
    names = np.array(labels)
    branches = np.array([branch_of(name) for name in labels])
    seeds = np.random.SeedSequence(SEED).generate_state(4).tolist()
    probe = sample(2)[0]
    found = model.classify(probe)
    children = np.split(found.children, [5, 11], axis=1)
    for level, of_level, of_model in zip(["top", *BRANCHES], seeds, [found.top, *children], strict=True):
        inside = slice(None) if level == "top" else branches == level
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            oracle = ensemble.BalancedRandomForestClassifier(
                n_estimators=TREES,
                criterion="entropy",
                class_weight="balanced_subsample",
                bootstrap=True,
                sampling_strategy="auto",
                replacement=False,
                max_features=0.2 if level == "Stochastic" else "sqrt",
                random_state=of_level,
            ).fit(np.nan_to_num(matrix[inside], nan=-999.0), (branches if level == "top" else names)[inside])
        order = list(BRANCHES) if level == "top" else list(BRANCHES[level])
        expected = oracle.predict_proba(np.nan_to_num(probe, nan=-999.0))[
            :, [list(oracle.classes_).index(c) for c in order]
        ]
        np.testing.assert_allclose(of_model, expected, rtol=0, atol=1e-6)
        np.testing.assert_allclose(model.importances[level], oracle.feature_importances_, rtol=1e-6, atol=1e-9)


def test_probabilities_are_those_of_a_hierarchy(model: LightcurveModel) -> None:
    found = model.classify(sample(2)[0])
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(found.top.sum(axis=1), 1, atol=1e-6)
    for branch, (first, end) in zip(BRANCHES, [(0, 5), (5, 11), (11, 15)], strict=True):
        inside = slice(first, end)
        assert LIGHTCURVE_CLASSES[inside] == BRANCHES[branch]
        np.testing.assert_allclose(found.children[:, inside].sum(axis=1), 1, atol=1e-6)
        weight = found.top[:, [list(BRANCHES).index(branch)]]
        np.testing.assert_allclose(found.probabilities[:, inside], weight * found.children[:, inside], atol=1e-12)
    assert (found.probabilities.argmax(axis=1) == found.class_codes).all()
    assert found.class_names == [model.names[code] for code in found.class_codes]


def test_learns_what_can_be_learned(model: LightcurveModel) -> None:
    matrix, labels = sample(3)
    found = model.classify(matrix)
    assert np.mean(np.array(found.class_names) == np.array(labels)) > 0.4  # 0.07 by chance
    assert model.importances["top"][:20].sum() > model.importances["top"][20:].sum() / 3


def test_one_at_a_time_is_the_same_as_all_at_once(model: LightcurveModel) -> None:
    matrix = sample(2)[0]
    whole = model.classify(matrix)
    alone = [model.classify(row[None]) for row in matrix[:40]]
    np.testing.assert_allclose(np.concatenate([a.probabilities for a in alone]), whole.probabilities[:40], atol=1e-12)


def test_infinite_is_missing_and_failed_fits_are_zero(model: LightcurveModel) -> None:
    matrix = sample(2)[0][:50]
    for odd, plain in ((np.inf, np.nan), (-np.inf, np.nan), (1e33, 0.0), (-1e300, 0.0)):
        left, right = matrix.copy(), matrix.copy()
        left[:, ::3], right[:, ::3] = odd, plain
        np.testing.assert_array_equal(model.classify(left).probabilities, model.classify(right).probabilities)


def test_an_object_without_features_has_no_class(model: LightcurveModel) -> None:
    matrix = sample(2)[0][:3]
    matrix[1] = np.nan
    found = model.classify(matrix)
    assert found.class_codes[1] == -1
    assert found.class_names[1] is None
    for values in (found.probabilities, found.top, found.children):
        assert np.isnan(values).all(axis=1).tolist() == [False, True, False]
    assert model.classify(np.empty((0, 152))).probabilities.shape == (0, 15)


def test_fewer_features_make_less_sure(model: LightcurveModel) -> None:
    matrix = sample(4)[0]
    rng = np.random.default_rng(SEED)
    sureness = []
    for share in (0.0, 0.4, 0.8):
        degraded = np.where(rng.random(matrix.shape) < share, np.nan, matrix)
        sureness.append(model.classify(degraded).probabilities.max(axis=1).mean())
    assert sureness == sorted(sureness, reverse=True)


def test_the_model_depends_on_the_seed_not_on_the_jobs(model: LightcurveModel, tmp_path: Path) -> None:
    files = [tmp_path / name for name in "abc"]
    model.save(files[0])
    train(*sample(1), seed=SEED, version="test-1", trees=TREES, jobs=2).save(files[1])
    train(*sample(1), seed=SEED + 1, version="test-1", trees=TREES).save(files[2])
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].read_bytes() != files[2].read_bytes()


def test_the_file_is_the_model(model: LightcurveModel, tmp_path: Path) -> None:
    model.save(tmp_path / "m.forest")
    loaded = load(tmp_path / "m.forest")
    matrix = sample(2)[0]
    np.testing.assert_array_equal(loaded.classify(matrix).probabilities, model.classify(matrix).probabilities)
    assert (loaded.version, loaded.features, loaded.features_version) == ("test-1", FEATURES, FEATURES_VERSION)
    assert loaded.training["objects"] == dict.fromkeys(sorted(LIGHTCURVE_CLASSES), 30)
    assert loaded.training["seed"] == SEED
    assert loaded.training["parameters"]["criterion"] == "entropy"
    for level, values in model.importances.items():
        np.testing.assert_array_equal(loaded.importances[level], values)


def _resigned(content: bytearray) -> bytes:
    return bytes(content[:-32]) + hashlib.sha256(content[:-32]).digest()


def test_a_changed_file_is_refused_or_still_a_model(model: LightcurveModel, tmp_path: Path) -> None:
    file = tmp_path / "m.forest"
    model.save(file)
    whole = file.read_bytes()
    head = 24 + struct.unpack_from("<I", whole, 12)[0]
    matrix = sample(2)[0][:20]
    rng = np.random.default_rng(SEED)
    refused = []
    for attempt in range(300):
        content = bytearray(whole)
        # Half of the changes fall into the header, and two thirds come with a right checksum.
        for at in rng.integers(0, head if attempt % 2 else len(whole) - 32, size=rng.integers(1, 4)):
            content[at] = rng.integers(256)
        file.write_bytes(_resigned(content) if attempt % 3 else bytes(content))
        try:
            found = load(file).classify(matrix)
        except ModelError as error:
            refused.append(str(error))
        else:
            np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-2)
    assert 100 < len(refused) < 300
    assert all(str(file) in message for message in refused)


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (b'"PPE"', b'"QQE"', "features that this code does not know: QQE"),
        (b'"SNIbc"]', b'"SNIxx"]', "forest Transient has classes"),
        (b'"SNIbc"]', b'"SNIIa"]', "forest Transient has classes"),
        (b'"Transient": [', b'"Transiant": [', "has no array 'Transiant.splits'"),
        (b'"training": {', b'"trainings": {', "header is not that of a light-curve model"),
        (b'"version": "test-1"', b'"version": 1', "header is not that of a light-curve model"),
    ],
)
def test_a_header_that_does_not_fit(model: LightcurveModel, tmp_path: Path, old: bytes, new: bytes, what: str) -> None:
    file = tmp_path / "m.forest"
    model.save(file)
    content = file.read_bytes()
    head = 24 + struct.unpack_from("<I", content, 12)[0]
    assert old in content[:head]
    changed = content[:head].rstrip(b" ").replace(old, new)
    assert head - 64 <= len(changed) <= head
    file.write_bytes(_resigned(bytearray(changed.ljust(head) + content[head:])))
    with pytest.raises(ModelError, match=what):
        load(file)


def test_a_model_of_some_features_reads_them_by_name(model: LightcurveModel) -> None:
    rng = np.random.default_rng(SEED)
    order = rng.permutation(len(FEATURES))
    matrix = sample(2)[0]
    shuffled = LightcurveModel(
        model._forests,
        version="x",
        features=[FEATURES[i] for i in order],
        features_version=FEATURES_VERSION,
        importances=model.importances,
        training={},
    )
    placed = np.empty_like(matrix)
    placed[:, order] = matrix
    np.testing.assert_array_equal(shuffled.classify(placed).probabilities, model.classify(matrix).probabilities)


def test_classes_without_objects_have_probability_zero() -> None:
    present = ("AGN", "QSO", "LPV", "RRL", "SNIa", "SNII")
    found = train(*sample(1, present), seed=SEED, version="x", trees=3).classify(sample(2)[0])
    absent = [name not in present for name in LIGHTCURVE_CLASSES]
    assert (found.probabilities[:, absent] == 0).all()
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("classes", "what"),
    [
        (("AGN", "QSO", "LPV", "RRL"), "level Transient has 0 classes to tell apart: none"),
        (("AGN", "QSO", "LPV", "RRL", "SNIa"), "level Transient has 1 classes to tell apart: SNIa"),
    ],
)
def test_a_branch_needs_two_classes(classes: tuple[str, ...], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        train(*sample(1, classes, each=8), seed=SEED, version="x", trees=2)


def test_training_input_that_is_refused() -> None:
    matrix, labels = sample(1, each=2)
    with pytest.raises(ValueError, match="no light-curve class 'Ceph'"):
        train(matrix, ["Ceph", *labels[1:]], seed=1, version="x")
    with pytest.raises(ValueError, match="shape"):
        train(matrix, labels[1:], seed=1, version="x")
    matrix[4] = np.nan
    with pytest.raises(ValueError, match="1 rows without a single feature"):
        train(matrix, labels, seed=1, version="x")


def test_a_matrix_of_another_width(model: LightcurveModel) -> None:
    with pytest.raises(ValueError, match=r"\(n, 152\) is needed"):
        model.classify(np.zeros((2, 151)))


def table(matrix: NDArray[np.float64], **more: Any) -> pa.Table:
    columns = {name: pa.array(column, from_pandas=True) for name, column in zip(FEATURES, matrix.T, strict=True)}
    return pa.table({"oid": [f"ZTF{i}" for i in range(len(matrix))], **columns, **more})


def test_tables_in_and_out(model: LightcurveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lightcurve, "_CHUNK", 7)
    matrix = sample(2)[0][:25]
    matrix[3] = np.nan
    expected = model.classify(matrix)
    found, absent = classify_table(table(matrix, class_true=["?"] * 25, n_det=[1] * 25), model)
    assert absent == []
    assert found.schema.names == ["oid", "class_name", "probability", *LIGHTCURVE_CLASSES, *BRANCHES, "model_version"]
    assert found["oid"].to_pylist() == [f"ZTF{i}" for i in range(25)]
    assert found["class_name"].to_pylist() == expected.class_names
    probabilities = np.column_stack([found[name].to_numpy() for name in LIGHTCURVE_CLASSES])
    np.testing.assert_array_equal(probabilities, expected.probabilities)
    np.testing.assert_array_equal(np.column_stack([found[name].to_numpy() for name in BRANCHES]), expected.top)
    assert found["probability"].to_pylist()[3] is None
    assert [found[name].null_count for name in ("class_name", "probability", "AGN", "Transient")] == [1] * 4
    assert set(found["model_version"].to_pylist()) == {"test-1"}


def test_missing_columns_are_named_and_published_names_known(model: LightcurveModel) -> None:
    matrix = sample(2)[0][:25]
    gone = matrix.copy()
    gone[:, [FEATURES.index(name) for name in ("W1-W2", "Std_1")]] = np.nan
    expected = model.classify(gone).class_names
    features = table(matrix).drop_columns(["W1-W2", "Std_1"]).rename_columns({"PPE": "Period_fit", "oid": "objectId"})
    found, absent = classify_table(features, model)
    assert absent == ["Std_1", "W1-W2"]
    assert found["class_name"].to_pylist() == expected
    assert found["oid"].to_pylist() == features["objectId"].to_pylist()


def test_integers_count_as_numbers_and_the_first_of_two_columns_counts(model: LightcurveModel) -> None:
    matrix = np.round(sample(2)[0][:9]) + 0.0
    features = table(matrix)
    at = features.schema.names.index("Std_1")
    twice = features.set_column(at, "Std_1", features["Std_1"].cast(pa.int32())).append_column(
        "Std_1", pa.array(["text"] * 9)
    )
    assert classify_table(twice, model)[0].equals(classify_table(features, model)[0])


def test_tables_that_are_refused(model: LightcurveModel) -> None:
    features = table(sample(2)[0][:2])
    with pytest.raises(ValueError, match="no column oid or objectId"):
        classify_table(features.drop_columns(["oid"]), model)
    at = features.schema.names.index("Std_2")
    with pytest.raises(ValueError, match="column 'Std_2' is not numeric"):
        classify_table(features.set_column(at, "Std_2", pa.array(["a", "b"])), model)


def test_an_empty_table(model: LightcurveModel) -> None:
    found, _ = classify_table(table(sample(2)[0][:0]), model)
    assert found.num_rows == 0
    assert found.schema.field("AGN").type == pa.float64()
    assert found.schema.field("class_name").type == pa.string()


def test_files_of_features(tmp_path: Path) -> None:
    features = table(sample(2)[0][:5]).set_column(0, "oid", pa.array(["007", "1e3", "ZTF1", "x,y", "nan"]))
    pq.write_table(features, tmp_path / "f.parquet")
    pacsv.write_csv(features, tmp_path / "f.csv")
    assert read_features(tmp_path / "f.parquet").equals(features)
    found = read_features(tmp_path / "f.csv")
    assert found.schema.equals(features.schema)
    assert found.equals(features)


def test_files_that_are_refused(tmp_path: Path) -> None:
    for name, content, said in (
        ("f.txt", b"oid\n1\n", "none of the 152 features"),
        ("f.parquet", b"PAR1", "f.parquet"),
        ("f.csv", b"oid,Std_1\na,b\n", "Std_1 holds 'b' in row 1"),
        ("f.csv", b"oid,Std_1\n", "only a header"),
        ("f.csv", b"oid,Std_1\n,1\n", "1 rows have no oid"),
        ("f.csv", b"oid,Std_1\n1.25E+18,1\n", "lost digits"),
        ("f.csv", b"oid,Std_1,Std_1\na,1,2\n", "2 columns are called Std_1"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=said):
            read_features(tmp_path / name)


def test_features_in_every_format_and_case_are_the_same(tmp_path: Path) -> None:
    features = table(sample(2)[0][:5])
    frame = features.to_pandas()
    Table.from_pandas(frame).write(tmp_path / "f.fits")
    frame.rename(columns=str.lower).to_csv(tmp_path / "f.csv.gz", index=False, sep=";", na_rep="NULL")
    frame.set_index("oid").to_parquet(tmp_path / "f.parquet")
    for name in ("f.fits", "f.csv.gz", "f.parquet"):
        found = read_features(tmp_path / name)
        assert found.equals(features.select(found.schema.names)), name
        assert found.num_columns == 153


@pytest.mark.real_data
def test_published_feature_tables_have_every_feature(model: LightcurveModel, data_dir: Path) -> None:
    found, absent = classify_table(read_features(data_dir / "lightcurves" / "100_objects_features.csv"), model)
    assert absent == []
    assert found.num_rows == 98
    assert found["class_name"].null_count == 0
    assert all(oid.startswith("ZTF") for oid in found["oid"].to_pylist())
