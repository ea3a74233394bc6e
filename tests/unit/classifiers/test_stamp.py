"""Inputs and answers of the stamp classifier: views that turn, columns against astropy, and the model we ship."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerce_spark.classifiers import stamp
from alerce_spark.classifiers.artefact import ModelError
from alerce_spark.classifiers.stamp import StampModel
from alerce_spark.classifiers.taxonomy import STAMP_CLASSES
from alerce_spark.errors import InputError
from alerce_spark.surveys.ztf import ZTF

#: The model that ships with the package.
SHIPPED = Path(stamp.__file__).parent / "bootstrap" / "stamp_classifier.onnx"


def images(n: int, seed: int = 0) -> np.ndarray:
    """Sky, a star off the centre, and the candidate: science, template, difference."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-31:32, -31:32]
    fixed = 400 * np.exp(-((x - 6) ** 2 + (y + 3) ** 2) / 3.0) + 150 * np.exp(-(x**2 + y**2) / 20.0)
    source = rng.uniform(30, 300, (n, 1, 1)) * np.exp(-(x**2 + y**2) / 2.5)
    noise, deep = rng.normal(0, 7, (n, 63, 63)), rng.normal(0, 1.5, (n, 63, 63))
    triple = (150 + fixed + source + noise, 150 + fixed + deep, source + noise)
    return np.stack(np.broadcast_arrays(*triple), axis=1).astype(np.float32)


def columns(n: int, seed: int = 0) -> dict[str, Any]:
    """Columns of a candidate as a packet has them."""
    rng = np.random.default_rng(seed)
    numbers = {one.name: rng.uniform(0.1, 1.0, n) for one in stamp.INPUTS}
    return {**numbers, "magpsf": rng.uniform(15, 20, n), "isdiffpos": rng.choice(["t", "f", "1", "0"], n).tolist()}


@pytest.fixture(scope="module")
def model() -> StampModel:
    return StampModel.load(SHIPPED)


# Views.


def test_views_are_scaled_by_the_noise_of_the_difference() -> None:
    (one,) = images(1)
    (fine,), (coarse,), (reason,) = stamp.views(one[None])
    noise = 1.4826 * np.median(np.abs(one[2] - np.median(one[2])))
    scaled = (one - np.median(one, axis=(1, 2), keepdims=True)) / (2.0 * noise)
    np.testing.assert_allclose(fine[:3], np.arcsinh(scaled[:, 21:42, 21:42]), atol=2e-4)
    sums = scaled.reshape(3, 21, 3, 21, 3).sum(axis=(2, 4)) / 3.0
    np.testing.assert_allclose(coarse[:3], np.arcsinh(sums), atol=2e-4)
    assert reason is None
    assert fine[3].min() == coarse[3].min() == 1.0


@given(seed=st.integers(0, 1000), turns=st.integers(1, 3), share=st.sampled_from((0.0, 0.1, 0.6)))
@settings(max_examples=20, deadline=None)
def test_views_turn_with_the_images(seed: int, turns: int, share: float) -> None:
    array = images(2, seed)
    array[:, :, np.random.default_rng(seed).random((63, 63)) < share] = np.nan
    turned = stamp.views(np.rot90(array, turns, axes=(2, 3)))
    for ours, theirs in zip(stamp.views(array)[:2], turned[:2], strict=True):
        np.testing.assert_allclose(np.rot90(ours, turns, axes=(2, 3)), theirs, atol=1e-5)


def test_pixels_without_a_value_are_marked_and_change_nothing_else() -> None:
    array = images(1)
    whole, _, _ = stamp.views(array)
    array[0, 1, 30, 35] = -3.4e38
    array[0, :, :5] = np.nan
    array[0, 0, 60, 60] = np.inf
    fine, coarse, reason = stamp.views(array)
    assert reason[0] is None
    assert np.isfinite(fine).all()
    assert np.isfinite(coarse).all()
    assert fine[0, 3, 9, 14] == 0.0
    assert fine[0, 3].sum() == 21 * 21 - 1
    assert coarse[0, 3, 0].max() == 0.0
    assert coarse[0, 3, 20, 20] == pytest.approx(8 / 9)
    changed = np.abs(fine - whole)
    changed[:, :, 9, 14] = 0.0
    assert changed.max() < 0.1  # medians of fewer pixels


def test_a_saturated_neighbour_leaves_the_centre_as_it_is() -> None:
    array = images(1)
    whole, _, _ = stamp.views(array)
    array[0, :, 50:60, 50:60] = 60_000.0
    np.testing.assert_allclose(stamp.views(array)[0], whole, atol=0.15)


@pytest.mark.parametrize(("channel", "name"), [(0, "science"), (1, "template"), (2, "difference")])
def test_an_image_without_any_value_has_a_reason(channel: int, name: str) -> None:
    array = images(2)
    array[1, channel] = np.nan
    _, _, reason = stamp.views(array)
    assert reason.tolist() == [None, f"{name}: no pixel has a value"]


def test_flat_images_have_finite_views() -> None:
    fine, coarse, reason = stamp.views(np.zeros((1, 3, 63, 63), np.float32))
    assert reason[0] is None
    assert (fine[0, :3] == 0).all()
    assert (coarse[0, :3] == 0).all()


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 62, 63\)"):
        stamp.views(np.zeros((2, 3, 62, 63)))


# Columns.


def test_positions_agree_with_astropy() -> None:
    from astropy import units as u
    from astropy.coordinates import SkyCoord

    rng = np.random.default_rng(1)
    ra, dec = rng.uniform(0, 360, 200), np.degrees(np.arcsin(rng.uniform(-1, 1, 200)))
    sky = SkyCoord(ra * u.deg, dec * u.deg)
    names = ("ecl_lat", "ecl_long", "gal_lat", "gal_long")
    ours = stamp.inputs({"ra": ra, "dec": dec}, names, 200)
    ecliptic = sky.barycentricmeanecliptic  # of J2000 as is ours; precession and frame bias agree to an arc second
    np.testing.assert_allclose(ours[:, 0], ecliptic.lat.deg, atol=1e-4)
    assert np.abs((ours[:, 1] - ecliptic.lon.deg + 180) % 360 - 180).max() < 2e-2  # near the pole a second is much
    np.testing.assert_allclose(ours[:, 2], sky.galactic.b.deg, atol=1e-6)
    assert np.abs((ours[:, 3] - sky.galactic.l.deg + 180) % 360 - 180).max() < 1e-3


def test_sentinels_nulls_and_absent_columns_are_unknown() -> None:
    given_columns = {
        "sgscore1": pa.chunked_array([[0.9, -999.0], [None]], pa.float32()),
        "distpsnr1": np.array([-999.0, 0.2, np.nan]),
        "ndethist": pa.array([3, None, 5], pa.int32()),
        "ncovhist": pa.array([10, 10, 10], pa.int32()),
        "isdiffpos": pa.array(["f", "1", "maybe"]),
    }
    names = ("sgscore1", "distpsnr1", "non_detections", "isdiffpos", "fwhm")
    table = stamp.inputs(given_columns, names, 3)
    nan = np.nan
    expected = [[0.9, nan, 7, -1, nan], [nan, 0.2, nan, 1, nan], [nan, nan, 5, nan, nan]]
    np.testing.assert_allclose(table, expected, rtol=1e-6)
    wanted = [one for name in names for one in stamp.INPUTS if one.name == name]
    scaled = stamp.normalise(table, wanted)
    assert np.isfinite(scaled).all()
    assert scaled[0, 1] == 30.0  # no PS1 source within 30″
    assert scaled[1, 0] == 0.5


def test_an_unknown_input_is_refused() -> None:
    with pytest.raises(ValueError, match="no such input: ssdistnr"):
        stamp.inputs({}, ["ssdistnr"], 1)


@pytest.mark.parametrize(
    ("distance", "name", "expected"),
    [
        (0.0, "2005 QE161", True),
        (5.0, "123", True),
        (5.1, "123", False),
        (-999.0, "123", False),
        (None, "123", False),
        (1.0, "null", False),
        (1.0, None, False),
        (1.0, "", False),
    ],
)
def test_known_movers_need_a_name_and_a_small_distance(
    distance: float | None, name: str | None, expected: bool
) -> None:
    given_columns = {"ssdistnr": pa.array([distance], pa.float32()), "ssnamenr": pa.array([name], pa.string())}
    assert stamp.is_known_mover(given_columns, *ZTF.mover).tolist() == [expected]


# The model.


def test_no_input_is_the_ephemeris_or_the_survey_s_own_judgement(model: StampModel) -> None:
    names = {one.name for one in model.inputs}
    assert not names & {"ssdistnr", "ssmagnr", "ssnamenr", "rb", "drb"}


def test_probabilities_do_not_depend_on_the_batch(model: StampModel) -> None:
    array, given_columns = images(150), columns(150)
    together, reason = model.classify(array, given_columns)
    assert model.classes == STAMP_CLASSES
    assert together.dtype == np.float64
    assert set(reason) == {None}
    np.testing.assert_allclose(together.sum(axis=1), 1.0, atol=1e-12)
    for i in (0, 63, 64, 149):
        alone, _ = model.classify(array[i : i + 1], {name: values[i : i + 1] for name, values in given_columns.items()})
        np.testing.assert_allclose(alone[0], together[i], atol=1e-5)
    assert model.classify(array[:0], {})[0].shape == (0, 5)


def test_the_answer_does_not_turn_with_the_images(model: StampModel) -> None:
    array, given_columns = images(20), columns(20)
    array[3, :, :, 50:] = np.nan
    upright, _ = model.classify(array, given_columns)
    for turns in (1, 2, 3):
        turned, _ = model.classify(np.rot90(array, turns, axes=(2, 3)), given_columns)
        np.testing.assert_allclose(turned, upright, atol=1e-5)


def test_other_images_give_another_answer_and_so_do_other_columns(model: StampModel) -> None:
    array, given_columns = images(20), columns(20)
    answer, _ = model.classify(array, given_columns)
    sky = array.copy()
    sky[:, 1] = 150 + np.random.default_rng(0).normal(0, 1.5, (20, 63, 63))
    other, _ = model.classify(sky, given_columns)
    assert (np.abs(other - answer).max(axis=1) > 0.02).all()
    noisy, _ = model.classify(array + np.random.default_rng(1).normal(0, 5, array.shape), given_columns)
    assert (np.abs(noisy - answer).max(axis=1) > 1e-4).all()
    changed = given_columns | {"sgscore1": np.full(20, 1.0), "distpsnr1": np.full(20, 0.1)}
    assert np.abs(model.classify(array, changed)[0] - answer).max() > 0.02


def test_every_unit_of_the_convolutions_lives(model: StampModel) -> None:
    import onnx
    import onnxruntime as ort

    graph = onnx.load(str(SHIPPED))
    after = {node.input[0]: node.output[0] for node in graph.graph.node if node.op_type == "Relu"}
    units = [after[node.output[0]] for node in graph.graph.node if node.op_type == "Conv"]
    assert len(units) == 6
    graph.graph.output.extend([onnx.ValueInfoProto(name=name) for name in units])
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    array = np.concatenate([images(40), images(20)[:, [2, 1, 0]], images(20)[:, ::-1], -images(20)])
    fine, coarse, _ = stamp.views(array)
    table = np.zeros((len(array), len(model.inputs)), np.float32)
    for name, values in zip(units, session.run(units, {"fine": fine, "coarse": coarse, "columns": table}), strict=True):
        dead = (values.max(axis=(0, 2, 3)) <= 0).mean()
        assert dead <= 0.1, f"{name}: {dead:.0%} of the units never fire"


def test_alerts_without_images_have_a_reason_and_no_class(model: StampModel) -> None:
    array = images(3)
    array[1, 2] = np.nan
    probabilities, reason = model.classify(array, columns(3))
    assert reason.tolist() == [None, "difference: no pixel has a value", None]
    assert np.isnan(probabilities[1]).all()
    assert np.isfinite(probabilities[[0, 2]]).all()


@pytest.mark.parametrize("content", [b"", b"not a model", bytes(1000)])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.onnx"):
        StampModel.load(path)


def test_a_model_of_another_format_is_refused(tmp_path: Path) -> None:
    import onnx

    graph = onnx.load(str(SHIPPED))
    onnx.helper.set_model_props(graph, {"format": "99"})
    onnx.save(graph, str(tmp_path / "model.onnx"))
    with pytest.raises(ModelError, match="format 99"):
        StampModel.load(tmp_path / "model.onnx")


def test_inference_needs_neither_tensorflow_nor_onnx() -> None:
    code = (
        f"import sys; from alerce_spark.classifiers import stamp; stamp.StampModel.load({str(SHIPPED)!r});"
        "sys.exit(bool({'tensorflow', 'keras', 'onnx', 'sklearn', 'pyspark'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Files.


@pytest.mark.real_data
def test_files_folders_and_tars_are_classified_and_the_rest_is_listed(
    model: StampModel, data_dir: Path, tmp_path: Path
) -> None:
    good = sorted((data_dir / "ztf" / "exposure").glob("*.avro"))[:3]
    broken = tmp_path / "broken.tar"
    broken.write_bytes(b"no archive")
    with tarfile.open(tmp_path / "night.tar.gz", "w:gz") as archive:
        for name, content in (("a.avro", good[1].read_bytes()), ("b.avro", b"nothing"), ("readme.txt", b"?")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    found = stamp.classify_paths([good[0], tmp_path, data_dir / "ztf" / "corrupt", good[2]], model, ZTF)
    names = ["oid", "candid", *STAMP_CLASSES, "class_name", "model_version"]
    assert found.table.column_names == names
    assert found.table["candid"].to_pylist() == [int(good[i].stem) for i in (0, 1, 2)]
    best = np.column_stack([found.table[name].to_numpy() for name in STAMP_CLASSES]).argmax(axis=1)
    assert found.table["class_name"].to_pylist() == [STAMP_CLASSES[k] for k in best]
    listed = [name for name, _ in found.skipped]
    assert len(listed) == 8
    assert {Path(name).name for name in listed} >= {"broken.tar", "night.tar.gz:b.avro", "night.tar.gz:readme.txt"}
    assert all(reason for _, reason in found.skipped)


def test_a_missing_path_is_an_error(model: StampModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such file"):
        stamp.classify_paths([tmp_path / "nowhere"], model, ZTF)


def test_a_folder_without_packets_is_an_error(model: StampModel, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Not a packet.")
    with pytest.raises(InputError, match="no packets"):
        stamp.classify_paths([tmp_path], model, ZTF)
