"""Reading of stamps: astropy and gzip as oracle, position of cut stamps, and damaged or invalid stamps."""

from __future__ import annotations

import gzip
import io
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from alerce_spark.alerts import avro, stamps
from alerce_spark.surveys import ztf
from alerce_spark.surveys.ztf import ZTF

RNG = np.random.default_rng(1)
IMAGE = RNG.normal(100, 10, (63, 63)).astype(np.float32)


def packed(image: np.ndarray | None, **cards: Any) -> bytes:
    """A gzipped FITS file made by astropy."""
    hdu = fits.PrimaryHDU(image)
    hdu.header.update(cards)
    out = io.BytesIO()
    hdu.writeto(out)
    return gzip.compress(out.getvalue(), 1)


def by_astropy(blob: bytes) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ZTF's headers are not of the fixed format
        with fits.open(io.BytesIO(gzip.decompress(blob))) as file:
            return np.array(file[0].data)


def one(science: bytes | None, template: bytes | None = None, difference: bytes | None = None) -> stamps.Stamps:
    good = packed(IMAGE)
    return stamps.decode([science], [good if template is None else template], [difference or good])


GOOD = packed(IMAGE)
RAW = gzip.decompress(GOOD)


# ---- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [">f4", ">f8", "u1", ">i2", ">i4", ">i8", ">u2", "i1"])
def test_every_pixel_type_as_astropy_reads_it(dtype: str) -> None:
    image = RNG.integers(0, 120, (63, 63)).astype(dtype)
    blob = packed(image)
    got = one(blob)
    assert got.reason[0] is None
    assert got.images.dtype == np.float32
    np.testing.assert_array_equal(got.images[0, 0], by_astropy(blob).astype(np.float32))


@pytest.mark.parametrize(("dtype", "blank"), [(">i2", -32768), (">i4", 7), ("u1", 255)])
def test_scaled_integers_with_blank_pixels(dtype: str, blank: int) -> None:
    raw = RNG.integers(8, 100, (63, 63)).astype(dtype)
    raw[3, 5:9] = blank
    header = fits.PrimaryHDU(raw).header
    header["BSCALE"], header["BZERO"], header["BLANK"] = 0.25, -3.5, blank
    text = header.tostring().encode()
    data = raw.tobytes()
    blob = gzip.compress(text + data + b"\0" * (-len(data) % 2880))
    got = one(blob).images[0, 0]
    np.testing.assert_allclose(got, by_astropy(blob), rtol=1e-6)
    assert np.isnan(got[3, 5:9]).all()


def test_long_headers_and_comments() -> None:
    hdu = fits.PrimaryHDU(IMAGE)
    for k in range(100):
        hdu.header[f"KEY{k}"] = (k, "END = / of nothing")
    hdu.header["TEXT"] = "NAXIS1  =  7 / END"
    hdu.header.add_comment("= NAXIS = 3")
    out = io.BytesIO()
    fits.HDUList([hdu, fits.ImageHDU(np.zeros((9, 9)))]).writeto(out)
    np.testing.assert_array_equal(one(gzip.compress(out.getvalue())).images[0, 0], IMAGE)


def test_free_format_header_as_ztf_writes_it() -> None:
    changed = RAW.replace(b"SIMPLE  =                    T", b"SIMPLE  =  T                  ")
    assert changed != RAW
    np.testing.assert_array_equal(one(gzip.compress(changed)).images[0, 0], IMAGE)


def test_pixels_without_value_are_nan() -> None:
    image = IMAGE.copy()
    image[0, :4] = np.nan, np.inf, -np.inf, -3.4028235e38
    got = one(packed(image)).images[0, 0]
    assert np.isnan(got[0, :4]).all()
    np.testing.assert_array_equal(got[1:], IMAGE[1:])


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()], ids=str)
def test_arrow_columns_with_offset_and_nulls(kind: pa.DataType, chunked: bool) -> None:
    images = [RNG.normal(size=(63, 63)).astype(np.float32) for _ in range(4)]
    column = pa.array([b"x", packed(images[0]), None, packed(images[2]), packed(images[3])], kind)[1:]
    if chunked:
        column = pa.chunked_array([column[:1], column[1:]])
    got = stamps.decode(column, column, column)
    assert got.reason.tolist() == [None, "science: no stamp", None, None]
    for i in (0, 2, 3):
        for channel in range(3):
            np.testing.assert_array_equal(got.images[i, channel], images[i])
    nothing = stamps.decode(*[pa.nulls(2, kind)] * 3)
    assert nothing.reason.tolist() == ["science: no stamp"] * 2


def test_no_alerts() -> None:
    got = stamps.decode([], [], [])
    assert len(got) == 0
    assert got.images.shape == (0, 3, 63, 63)


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="2, 1, 1"):
        stamps.decode([GOOD, GOOD], [GOOD], [GOOD])


# ---- cut stamps ------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3072), st.integers(1, 3080))
def test_stamps_cut_from_a_detector_keep_the_candidate_in_the_middle(x: int, y: int) -> None:
    """Cut stamps like the survey does: drop the pixels beyond the border."""
    rows, columns = 3080, 3072
    low_y, high_y = max(y - 1 - 31, 0), min(y - 1 + 32, rows)
    low_x, high_x = max(x - 1 - 31, 0), min(x - 1 + 32, columns)
    v, u = np.mgrid[low_y:high_y, low_x:high_x]
    blob = packed((u + 10000.0 * v).astype(np.float64))
    got = stamps.decode([blob], [blob], [blob], xpos=[x + 0.3], ypos=[y - 0.3])
    assert got.reason[0] is None
    assert got.shape[0].tolist() == [list(u.shape)] * 3
    middle = got.images[0, :, 31, 31].astype(np.float64)
    np.testing.assert_allclose(middle, x - 1 + 10000.0 * (y - 1), rtol=1e-6)
    assert np.isnan(got.images[0, 0]).sum() == 63 * 63 - u.size


def test_without_positions_the_far_sides_are_missing() -> None:
    blob = packed(IMAGE[:50, :41])
    got = stamps.decode([blob], [blob], [blob])
    np.testing.assert_array_equal(got.images[0, 1, :50, :41], IMAGE[:50, :41])


def test_a_position_that_does_not_fit_the_size_is_bounded_by_it() -> None:
    blob = packed(IMAGE[:, :60])
    got = stamps.decode([blob, GOOD], [blob, GOOD], [blob, GOOD], xpos=[5.0, -1e30], ypos=[2000.0, np.inf])
    np.testing.assert_array_equal(got.images[0, 0, :, 3:], IMAGE[:, :60])
    np.testing.assert_array_equal(got.images[1, 0], IMAGE)


# ---- what is no stamp ------------------------------------------------------------------------------------------------

BAD = {
    "no stamp": b"",
    "not gzip": b"<html>503 Service Unavailable</html>" * 9,
    "gzip is cut off": GOOD[: len(GOOD) // 2],
    "not gzip, or damaged": GOOD[:400] + bytes([GOOD[400] ^ 255]) + GOOD[401:],
    "bytes left over": GOOD + GOOD,
    "more than 1048576 bytes": gzip.compress(b"\0" * (2 << 20)),
    "not FITS": gzip.compress(b"<html>" * 900),
    "without END": gzip.compress(RAW[:240]),
    "do not fit": gzip.compress(RAW[:9000]),
    "40 × 20 pixels": packed(np.zeros((40, 20))),
    "64 × 63 pixels": packed(np.zeros((64, 63))),
    "0 × 0": gzip.compress(RAW.replace(b"                  63", b"                   0")),
    "-1 ×": gzip.compress(RAW.replace(b"                  63", b"                  -1")),
    "NAXIS is 0": packed(None),
    "NAXIS is 3": packed(np.zeros((1, 63, 63))),
    "BITPIX is 12": gzip.compress(RAW.replace(b" -32", b"  12")),
    "BITPIX is -x2": gzip.compress(RAW.replace(b" -32", b" -x2")),
    "without BITPIX": gzip.compress(RAW.replace(b"BITPIX", b"BITPIC")),
    "BZERO is NAN": gzip.compress(RAW.replace(b"EXTEND  =                    T", b"BZERO   =                  NAN")),
    "BSCALE is 1D400": gzip.compress(RAW.replace(b"EXTEND  =                    T", b"BSCALE  =                1D400")),
    "no pixel has a value": packed(np.full((63, 63), np.nan)),
}


@pytest.mark.parametrize("channel", range(3))
@pytest.mark.parametrize("reason", BAD, ids=str)
def test_a_broken_stamp_gives_a_reason_and_leaves_its_neighbours(reason: str, channel: int) -> None:
    columns = [[GOOD, GOOD, GOOD] for _ in range(3)]
    columns[channel][1] = BAD[reason]
    got = stamps.decode(*columns)
    assert got.reason[0] is None
    assert got.reason[2] is None
    assert got.reason[1].startswith(("science: ", "template: ", "difference: ")[channel])
    assert reason in got.reason[1]
    assert np.isnan(got.images[1]).all()
    for k in (0, 2):
        np.testing.assert_array_equal(got.images[k], [IMAGE] * 3)


def test_images_of_different_size() -> None:
    assert one(packed(IMAGE[:50])).reason[0] == "template: 63 × 63 pixels, science has 50 × 63"


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_never_raises(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from([GOOD, RAW])))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content), 600) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))]
    blob = bytes(content) if content[:2] == GOOD[:2] else gzip.compress(bytes(content), 1)
    got = one(blob)
    assert (got.reason[0] is None) == bool(np.isfinite(got.images[0]).any())


# ---- real packets ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(data_dir: Path) -> avro.Decoded:
    packets = [path.read_bytes() for path in sorted((data_dir / "ztf").rglob("*.avro"))]
    for path in (data_dir / "ztf").glob("*.tar.gz"):
        with tarfile.open(path) as archive:
            members = (archive.extractfile(member) for member in archive if member.isfile())
            packets += [member.read() for member in members if member]
    return avro.decode(packets, ZTF, stamps=True)


@pytest.mark.real_data
def test_real_stamps_equal_those_of_astropy(real: avro.Decoded) -> None:
    got = stamps.of(real.alerts, ZTF)
    assert len(got) > 400
    assert not got.reason.any()
    x, y = real.alerts["xpos"].to_pylist(), real.alerts["ypos"].to_pylist()
    cut = 0
    for channel, name in enumerate(ztf.CUTOUTS):
        for i, blob in enumerate(real.alerts[name].to_pylist()):
            image = by_astropy(blob)
            image[np.abs(image) > 3.4e38] = np.nan
            assert got.shape[i, channel].tolist() == list(image.shape)
            whole = np.full((63, 63), np.nan, np.float32)
            # on ZTF's detectors of 3072 x 3080 pixels
            below, left = max(32 - round(y[i]), 0), max(32 - round(x[i]), 0)
            above, right = max(round(y[i]) + 31 - 3080, 0), max(round(x[i]) + 31 - 3072, 0)
            whole[below : 63 - above, left : 63 - right] = image
            np.testing.assert_array_equal(got.images[i, channel], whole)
            cut += image.shape != (63, 63)
    assert cut >= 12


@pytest.mark.real_data
def test_the_difference_of_cut_stamps_peaks_in_the_middle(real: avro.Decoded) -> None:
    got = stamps.of(real.alerts, ZTF)
    for i in np.flatnonzero((got.shape != 63).any(axis=(1, 2))):
        core = np.abs(got.images[i, 2, 28:35, 28:35])
        assert np.nanmax(core) == pytest.approx(np.nanmax(np.abs(got.images[i, 2, 20:43, 20:43])))
