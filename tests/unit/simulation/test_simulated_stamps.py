"""Simulated stamps agree with their packet, and have the noise and source density of real ones."""

from __future__ import annotations

import gzip
import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from alerce_spark.alerts import avro
from alerce_spark.alerts import stamps as reading
from alerce_spark.simulation import stamps
from alerce_spark.simulation.night import simulate
from alerce_spark.simulation.traits import Traits
from alerce_spark.surveys.ztf import ZTF

Y, X = np.mgrid[0:63, 0:63]
N = 300


def candidates(n: int = N, **changes: Any) -> dict[str, np.ndarray]:
    """Candidate records of bright alerts at (180, 0) on an empty field; `changes` replace columns."""
    rng = np.random.default_rng(5)
    columns: dict[str, Any] = {
        "ra": 180.0, "dec": 0.0, "ranr": 180.0, "decnr": 0.0, "distnr": -999.0, "magnr": -999.0, "fid": 1,
        "xpos": rng.uniform(100, 3000, n), "ypos": rng.uniform(100, 3000, n), "isdiffpos": "t", "magpsf": 17.5,
        "diffmaglim": 20.5, "magzpsci": 26.2, "fwhm": rng.uniform(1.7, 3.0, n), "seeratio": 1.0, "elong": 1.1,
        "nmtchps": 0,
    }  # fmt: skip
    for k in "123":
        columns |= {f"distpsnr{k}": -999.0, f"sgscore{k}": -999.0, f"objectidps{k}": -999}
        columns |= {f"s{band}mag{k}": -999.0 for band in "gri"}
    return {name: np.broadcast_to(value, n).copy() for name, value in (columns | changes).items()}


def drawn(scene: str, columns: dict[str, np.ndarray], **options: Any) -> np.ndarray:
    n = columns["ra"].size
    never = np.zeros(n, bool)
    return stamps.render(columns, np.full(n, scene), np.arange(n) + 7, **{"is_masked": never, **options})


def centres(columns: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return tuple(31 + columns[name] - np.rint(columns[name]) for name in ("xpos", "ypos"))


def aperture(image: np.ndarray, x: Any, y: Any, radius: float) -> np.ndarray:
    """Flux within `radius` of x, y for each of n images (n, 63, 63), above the median of the image."""
    inside = np.hypot(X - np.reshape(x, (-1, 1, 1)), Y - np.reshape(y, (-1, 1, 1))) <= radius
    sky = np.median(image, axis=(1, 2), keepdims=True)
    return np.where(inside, image - sky, 0.0).sum(axis=(1, 2))


def dn(columns: dict[str, np.ndarray], name: str) -> np.ndarray:
    return 10.0 ** (0.4 * (columns["magzpsci"] - columns[name]))


def noise(images: np.ndarray) -> np.ndarray:
    """Half of the central 68 % below the median: noise that sources do not raise."""
    low, middle = np.nanquantile(images, [0.1587, 0.5], axis=(-2, -1))
    return middle - low


# ---- what the packet says --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", ["t", "f", "1", "0"])
@pytest.mark.parametrize("scene", ["star", "host", "mover"])
def test_flux_of_the_difference_is_magpsf_and_positive_for_both_signs(scene: str, sign: str) -> None:
    """The survey swaps the sides of the difference for what has faded (measured on 71 real alerts)."""
    columns = candidates(isdiffpos=sign)
    images = drawn(scene, columns)
    flux = aperture(images[:, 2], *centres(columns), 6.0)
    assert np.median(flux) == pytest.approx(dn(columns, "magpsf")[0], rel=0.06)
    side = 1.0 if sign in "t1" else -1.0
    change = aperture(images[:, 0] - images[:, 1], *centres(columns), 6.0)
    assert np.median(change) == pytest.approx(side * dn(columns, "magpsf")[0], rel=0.12)


def test_difference_is_science_minus_reference_but_for_residuals() -> None:
    """Blank pixels: correlation 0.85 in real packets (5 to 95 %: 0.67 to 0.96)."""
    for sign, side in (("t", 1.0), ("f", -1.0)):
        images = drawn("mover", candidates(20, isdiffpos=sign, magpsf=20.0))
        other = side * (images[:, 0] - images[:, 1])
        for mine, theirs in zip(images[:, 2], other, strict=True):
            assert 0.7 < np.corrcoef(mine.ravel(), theirs.ravel())[0, 1] < 0.96
            assert np.std(mine) == pytest.approx(np.std(theirs), rel=0.15)


def test_the_candidate_lies_at_its_part_of_a_pixel() -> None:
    columns = candidates(magpsf=15.0)
    image = drawn("mover", columns)[:, 2]
    weight = np.where(np.hypot(X - 31, Y - 31) < 4, image, 0.0)
    total = weight.sum(axis=(1, 2))
    x, y = centres(columns)
    np.testing.assert_allclose((weight * X).sum(axis=(1, 2)) / total, x, atol=0.12)
    np.testing.assert_allclose((weight * Y).sum(axis=(1, 2)) / total, y, atol=0.12)


@pytest.mark.parametrize(("east", "north"), [(8.0, 0.0), (0.0, 9.0), (-6.0, -5.0)])
def test_reference_shows_its_nearest_source(east: float, north: float) -> None:
    """At distnr pixels and with magnr; east is to smaller columns and north to smaller rows, as in real stamps."""
    pixel = stamps.PIXEL_SCALE / 3600.0
    columns = candidates(
        ranr=180.0 + east * pixel, decnr=north * pixel, distnr=np.hypot(east, north), magnr=17.0, magpsf=19.0
    )
    images = drawn("star", columns)
    x, y = centres(columns)
    for channel in (0, 1):
        flux = aperture(images[:, channel], x - east, y - north, 5.0)
        assert np.median(flux) == pytest.approx(dn(columns, "magnr")[0], rel=0.08)


def test_a_mover_is_absent_from_the_reference() -> None:
    images = drawn("mover", candidates(magpsf=17.0))
    x, y = centres(candidates())
    error = 1.5 * np.sqrt(np.pi * 16)
    assert abs(np.mean(aperture(images[:, 1], x, y, 4.0))) < 0.5 * error
    assert np.median(aperture(images[:, 0], x, y, 4.0)) > 3000


def test_hosts_are_wider_than_stars() -> None:
    near = {"distnr": 0.05, "magnr": 17.5, "sgscore1": 0.02, "distpsnr1": 0.05, "magpsf": 19.5}
    size = {}
    for scene in ("star", "host"):
        columns = candidates(**near)
        images = drawn(scene, columns)[:, 1]
        x, y = centres(columns)
        size[scene] = np.median(aperture(images, x, y, 2.0) / aperture(images, x, y, 8.0))
    assert size["host"] < 0.8 * size["star"]


def test_neighbours_stay_where_they_are() -> None:
    """Alerts of one object, so of one nearest PS1 source, show the same field."""
    columns = candidates(2, nmtchps=12, objectidps1=123456789012345678, distpsnr1=20.0, srmag1=16.0, sgmag1=16.0)
    columns["xpos"][:], columns["ypos"][:] = 1000.0, 1000.0
    first, second = drawn("mover", columns)[:, 1]
    bright = first > np.median(first) + 30
    assert bright.sum() > 8
    assert np.corrcoef(first[bright], second[bright])[0, 1] > 0.97


def test_artefacts_are_of_every_form_and_peak_near_the_middle() -> None:
    columns = candidates(400, magpsf=18.0)
    images = drawn("artefact", columns)[:, 2]
    peak = images[:, 26:37, 26:37].max(axis=(1, 2)) / noise(images)
    assert np.quantile(peak, 0.1) > 4
    # A point source of this brightness and seeing has a peak of 4 to 15 % of its flux; cosmic rays far more.
    share = images[:, 29:34, 29:34].max(axis=(1, 2)) / dn(columns, "magpsf")
    assert share.max() > 0.4
    assert share.min() < 0.04


def test_faint_limits_mean_low_noise() -> None:
    deep, shallow = (noise(drawn("mover", candidates(diffmaglim=limit)))[:, 2] for limit in (20.5, 19.0))
    assert np.median(shallow / deep) == pytest.approx(10 ** (0.4 * 1.5), rel=0.05)


# ---- form ------------------------------------------------------------------------------------------------------------


def test_same_key_same_bytes_in_any_company() -> None:
    columns = candidates(40)
    scene, key = np.array(["star", "mover", "artefact", "host"] * 10), np.arange(40) * 10**15
    whole = stamps.render(columns, scene, key, seed=3)
    some = [17, 3, 39]
    part = stamps.render({name: values[some] for name, values in columns.items()}, scene[some], key[some], seed=3)
    np.testing.assert_array_equal(part, whole[some])
    assert not np.array_equal(whole, stamps.render(columns, scene, key, seed=4), equal_nan=True)


def test_unknown_scenes_are_refused() -> None:
    with pytest.raises(ValueError, match="cloud"):
        drawn("cloud", candidates(2))


def test_masked_pixels_are_nan_in_all_three_images_and_never_the_candidate() -> None:
    images = drawn("star", candidates(), is_masked=np.ones(N, bool))
    masked = np.isnan(images)
    assert (masked == masked[:, :1]).all()
    assert masked.any(axis=(1, 2, 3)).mean() > 0.9  # a box may lie just outside
    assert not masked[:, :, 31, 31].any()


@pytest.mark.parametrize(
    ("x", "y", "shape"), [(3052.653, 1808.0, (63, 51)), (3062.3, 331.8, (63, 42)), (2875.6, 19.78, (51, 63))]
)
def test_cut_as_real_stamps_are(x: float, y: float, shape: tuple[int, int]) -> None:
    """Positions and sizes of real packets."""
    images = np.arange(3 * 63 * 63, dtype=np.float32).reshape(3, 63, 63)
    part = stamps.cut(images, x, y)
    assert part.shape == (3, *shape)
    read = reading.decode(*[[stamps.fits_gz(image)] for image in part], xpos=[x], ypos=[y])
    there = np.isfinite(read.images[0])
    np.testing.assert_array_equal(read.images[0][there], images[there])


def image_of(stamp: bytes) -> np.ndarray:
    with fits.open(io.BytesIO(gzip.decompress(stamp))) as file:
        return np.array(file[0].data, np.float64)


@pytest.mark.parametrize("form", [True, "pool"])
def test_packets_carry_stamps_that_astropy_reads(form: Any) -> None:
    night = simulate(23, objects=40, stamps=form)
    alerts = avro.decode(night.packets, ZTF, stamps=True).alerts
    read = reading.of(avro.decode(night.packets, ZTF, stamps=True).alerts, ZTF)
    assert not read.reason.any()
    for i, row in enumerate(alerts.select(["cutoutScience", "cutoutDifference"]).to_pylist()):
        assert image_of(row["cutoutScience"]).shape == tuple(read.shape[i, 0])
        assert row["cutoutScience"][4:8] == b"\0\0\0\0"  # no time of making
        if read.shape[i].min() == 63:
            np.testing.assert_array_equal(image_of(row["cutoutDifference"]).astype(np.float32), read.images[i, 2])
    middle = read.images[:, 2, 29:34, 29:34].max(axis=(1, 2)) / noise(read.images[:, 2])
    assert np.median(middle) > 5


@pytest.mark.parametrize("form", [True, "pool"])
def test_broken_stamps_come_at_their_rates(form: Any) -> None:
    night = simulate(24, objects=150, nights=2, stamps=form, traits=Traits(edge_stamps=0.1, nan_stamps=0.3))
    read = reading.of(avro.decode(night.packets, ZTF, stamps=True).alerts, ZTF)
    assert not read.reason.any()
    short = (read.shape < 63).any(axis=(1, 2))
    n, share = short.size, 0.1
    assert abs(short.sum() - n * share) < 4 * np.sqrt(n * share) + 3
    assert (read.shape.max(axis=(1, 2)) == 63).all()
    assert read.shape.min() >= 41
    has_nan = np.isnan(read.images[~short]).any(axis=(1, 2, 3))
    # a box of masked pixels may lie outside of the stamp
    assert 0.2 < has_nan.mean() < 0.36


# ---- against real stamps ---------------------------------------------------------------------------------------------


@cache
def real_and_made(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Real stamps, and simulated ones from the same candidate records."""
    packets = [path.read_bytes() for path in sorted((folder / "ztf").rglob("*.avro"))]
    decoded = avro.decode(packets, ZTF, stamps=True)
    columns = {}
    for name in candidates(1):
        column = decoded.alerts[name].to_pandas()
        columns[name] = column.fillna(-999).to_numpy() if name != "isdiffpos" else column.to_numpy(str)
        columns[name] = columns[name].astype(np.int64) if name.startswith("objectid") else columns[name]
    known = decoded.alerts["ssdistnr"].to_pandas().fillna(-999).to_numpy()
    star = (columns["distpsnr1"] < 1.5) & (columns["sgscore1"] > 0.5)
    scene = np.where(known >= 0, "mover", np.where(star, "star", "host"))
    return reading.of(decoded.alerts, ZTF).images, stamps.render(columns, scene, decoded.alerts["candid"].to_numpy())


@pytest.mark.real_data
@pytest.mark.parametrize(("channel", "tolerance"), [(0, 0.15), (1, 0.2), (2, 0.15)])
def test_noise_is_that_of_real_stamps(data_dir: Path, channel: int, tolerance: float) -> None:
    real, made = (np.quantile(noise(x[:, channel]), [0.1, 0.25, 0.5, 0.75]) for x in real_and_made(data_dir))
    np.testing.assert_allclose(made, real, rtol=tolerance + 0.1)
    assert made[2] == pytest.approx(real[2], rel=tolerance)


@pytest.mark.real_data
def test_sky_and_sources_are_those_of_real_stamps(data_dir: Path) -> None:
    real, made = (np.nanmedian(x[:, 0], axis=(1, 2)) for x in real_and_made(data_dir))
    assert np.median(made) == pytest.approx(np.median(real), rel=0.1)
    assert np.std(np.log(made)) == pytest.approx(np.std(np.log(real)), rel=0.3)
    shares = []
    for images in real_and_made(data_dir):
        above = images[:, 1] - np.nanmedian(images[:, 1], axis=(1, 2), keepdims=True)
        shares.append(np.nanmean(above > 8 * noise(images[:, 1])[:, None, None]))
    assert shares[1] == pytest.approx(shares[0], rel=0.35)


@pytest.mark.real_data
def test_neighbouring_pixels_share_noise_as_in_real_stamps(data_dir: Path) -> None:
    def shared(images: np.ndarray, channel: int) -> float:
        values = []
        for image in images[:, channel]:
            flat = image - np.nanmedian(image)
            limit = 3 * noise(image)
            a, b = flat[:, 1:].ravel(), flat[:, :-1].ravel()
            calm = (np.abs(a) < limit) & (np.abs(b) < limit)
            values.append(np.corrcoef(a[calm], b[calm])[0, 1])
        return float(np.median(values))

    real, made = real_and_made(data_dir)
    for channel in range(3):
        assert shared(made, channel) == pytest.approx(shared(real, channel), abs=0.1)


@pytest.mark.real_data
@pytest.mark.parametrize("level", [80, 320, 1280])
def test_residuals_of_static_sources_are_as_large_as_real_ones(data_dir: Path, level: float) -> None:
    """Spread of the difference, in its noise, where the reference is `level` to 4 · `level` DN above its sky."""

    def spread(images: np.ndarray) -> float:
        whole = images[~np.isnan(images).any(axis=(1, 2, 3))]
        above = whole[:, 1] - np.median(whole[:, 1], axis=(1, 2), keepdims=True)
        there = (above > level) & (above < 4 * level) & (np.hypot(X - 31, Y - 31) > 8)
        inner = np.quantile((whole[:, 2] / noise(whole[:, 2])[:, None, None])[there], [0.1587, 0.8413])
        return float(np.diff(inner)[0] / 2)

    real, made = (spread(images) for images in real_and_made(data_dir))
    assert made == pytest.approx(real, rel=0.5)
