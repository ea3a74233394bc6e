"""Correction of difference photometry: reference values, flux arithmetic by astropy, and codes instead of numbers."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from astropy import units
from hypothesis import given
from hypothesis import strategies as st

from alerce_spark.lightcurves.correction import Corrected, correct, dubious, stellar_flags, with_sentinels

pytestmark = pytest.mark.filterwarnings("error")

SIGN = {"t": 1.0, "1": 1.0, "f": -1.0, "0": -1.0}
INPUTS = ("magpsf", "sigmapsf", "magnr", "sigmagnr", "distnr")
NAN = np.nan

magnitudes = st.floats(10.0, 23.0)
errors = st.floats(0.001, 0.5)


PLAIN = {"magpsf": 18.0, "sigmapsf": 0.1, "magnr": 17.0, "sigmagnr": 0.02, "distnr": 0.5, "sign": 1.0}


def one(**changes: float) -> Corrected:
    """A single ordinary detection with `changes`."""
    return correct(**{name: np.array([value]) for name, value in (PLAIN | changes).items()})


@pytest.mark.real_data
def test_golden_detections(data_dir: Path) -> None:
    import pyarrow.parquet as pq

    golden = data_dir / "ztf" / "golden"
    detections = pq.read_table(golden / "10_objects_detections.parquet").to_pandas()
    expected = pq.read_table(golden / "10_objects_corrected.parquet").to_pandas()
    rows = detections.merge(expected, on=["objectId", "candid"], suffixes=("", "_expected"), validate="1:1")
    assert len(rows) == 1381
    result = correct(*(rows[name] for name in INPUTS), rows["isdiffpos"].map(SIGN))
    published = with_sentinels(result)
    np.testing.assert_array_equal(published.corrected, rows["corrected"])
    for name in ("magpsf_corr", "sigmapsf_corr", "sigmapsf_corr_ext"):
        np.testing.assert_allclose(getattr(published, name), rows[name], rtol=0, atol=2e-6, err_msg=name)
    assert result.corrected.sum() == 1373
    assert (published.sigmapsf_corr == 100).sum() == 666
    assert np.isnan(result.sigmapsf_corr).sum() == 666 + (1381 - 1373)


@pytest.mark.real_data
def test_reference_packet(data_dir: Path) -> None:
    import fastavro

    path = data_dir / "ztf" / "histories" / "ZTF18aazxcwf" / "1007101110115010003.avro"
    with path.open("rb") as stream:
        candidate = next(fastavro.reader(stream))["candidate"]
    result = correct(*([candidate[name]] for name in INPUTS), [SIGN[candidate["isdiffpos"]]])
    published = with_sentinels(result)
    assert published.magpsf_corr[0] == pytest.approx(16.387620303061944, abs=1e-12)
    assert published.sigmapsf_corr[0] == 100.0
    assert published.sigmapsf_corr_ext[0] == pytest.approx(0.02641869927986706, abs=1e-14)
    assert np.isnan(result.sigmapsf_corr[0])


@given(magpsf=magnitudes, magnr=magnitudes, sign=st.sampled_from([1.0, -1.0]))
def test_fluxes_add_as_in_astropy(magpsf: float, magnr: float, sign: float) -> None:
    result = one(magpsf=magpsf, magnr=magnr, sign=sign)
    flux = (magnr * units.ABmag).to(units.Jy) + sign * (magpsf * units.ABmag).to(units.Jy)
    if abs(magpsf - magnr) < 1e-6 and sign < 0:
        return  # the difference of two equal fluxes has no digits left
    if flux > 0:
        # a small difference of two fluxes keeps fewer digits
        assert result.magpsf_corr[0] == pytest.approx(flux.to_value(units.ABmag), abs=1e-7)
        assert not result.no_flux[0]
    else:
        assert np.isnan([result.magpsf_corr, result.sigmapsf_corr, result.sigmapsf_corr_ext]).all()
        assert result.no_flux[0]


@given(magpsf=magnitudes, magnr=magnitudes, sigmapsf=errors)
def test_what_is_added_can_be_taken_away(magpsf: float, magnr: float, sigmapsf: float) -> None:
    """With the opposite sign, on the sum as reference, the same difference leads back."""
    bright = one(magpsf=magpsf, magnr=magnr, sigmapsf=sigmapsf, sign=1.0)
    faint = one(magpsf=magpsf, magnr=float(bright.magpsf_corr[0]), sigmapsf=sigmapsf, sign=-1.0)
    lost = 10 ** (0.4 * (magnr - bright.magpsf_corr[0]))  # digits that the larger flux takes from the reference
    if lost < 1e9:
        assert faint.magpsf_corr[0] == pytest.approx(magnr, abs=1e-13 * lost + 1e-11)


@given(magpsf=magnitudes, magnr=magnitudes, sigmapsf=errors, sigmagnr=errors, sign=st.sampled_from([1.0, -1.0]))
def test_errors_are_those_of_the_flux(
    magpsf: float, magnr: float, sigmapsf: float, sigmagnr: float, sign: float
) -> None:
    result = one(magpsf=magpsf, sigmapsf=sigmapsf, magnr=magnr, sigmagnr=sigmagnr, sign=sign)
    if result.no_flux[0]:
        return
    flux = 10 ** (-0.4 * result.magpsf_corr[0])
    difference, reference = 10 ** (-0.4 * magpsf), 10 ** (-0.4 * magnr)
    assert result.sigmapsf_corr_ext[0] * flux == pytest.approx(sigmapsf * difference, rel=1e-6, abs=0)
    variance = (sigmapsf * difference) ** 2 - (sigmagnr * reference) ** 2
    if abs(variance) < 1e-6 * (sigmapsf * difference) ** 2:
        return  # nor do two equal variances leave digits
    if variance < 0:
        assert np.isnan(result.sigmapsf_corr[0])
        assert with_sentinels(result).sigmapsf_corr[0] == 100.0
    else:
        assert (result.sigmapsf_corr[0] * flux) ** 2 == pytest.approx(variance, rel=1e-6, abs=0)
        assert result.sigmapsf_corr[0] <= result.sigmapsf_corr_ext[0]


@pytest.mark.parametrize(
    ("distnr", "corrected"), [(0.0, True), (1.399, True), (1.4, False), (5.0, False), (-999.0, False), (NAN, False)]
)
def test_only_a_near_reference_source_corrects(distnr: float, corrected: bool) -> None:
    result = one(distnr=distnr)
    assert result.corrected[0] == corrected
    assert np.isfinite(result.magpsf_corr[0]) == corrected


@pytest.mark.parametrize(
    "codes",
    [{"magnr": -999.0}, {"magpsf": -999.0}, {"magnr": NAN}, {"magpsf": NAN}, {"sign": NAN}, {"magpsf": np.inf}],
    ids=str,
)
def test_codes_and_nulls_give_no_magnitude(codes: dict[str, float]) -> None:
    for result in (one(**codes), with_sentinels(one(**codes))):
        assert result.corrected[0]
        assert not result.no_flux[0]
        assert np.isnan([result.magpsf_corr, result.sigmapsf_corr, result.sigmapsf_corr_ext]).all()


def test_no_positive_flux() -> None:
    for result in (one(magpsf=17.0, magnr=17.0, sign=-1.0), one(magpsf=16.0, magnr=17.0, sign=-1.0)):
        assert result.no_flux[0]
        assert np.isnan([result.magpsf_corr, result.sigmapsf_corr, result.sigmapsf_corr_ext]).all()
        published = with_sentinels(result)
        assert published.magpsf_corr[0] == published.sigmapsf_corr[0] == published.sigmapsf_corr_ext[0] == 100.0


def test_null_error_of_the_reference_leaves_the_extended_error() -> None:
    result = one(sigmagnr=NAN)
    assert np.isfinite([result.magpsf_corr, result.sigmapsf_corr_ext]).all()
    assert np.isnan(result.sigmapsf_corr[0])


def test_single_precision_input_is_computed_in_double() -> None:
    values = np.array([18.25, 0.125, 17.5, 0.0625, 0.5, 1.0])  # exact in both
    single, double = correct(*values.astype(np.float32)[:, None]), correct(*values[:, None])
    assert single.magpsf_corr.dtype == np.float64
    assert single.magpsf_corr[0] == double.magpsf_corr[0]


def test_no_rows() -> None:
    result = with_sentinels(correct(*(np.empty(0) for _ in range(6))))
    assert result.corrected.shape == result.magpsf_corr.shape == result.no_flux.shape == (0,)
    assert dubious(result.corrected, np.empty(0), result.corrected).shape == (0,)


@pytest.mark.parametrize(
    ("corrected", "sign", "first_corrected", "expected"),
    [
        (True, 1, True, False),
        (True, -1, True, False),
        (False, 1, False, False),
        (False, -1, False, True),
        (False, 1, True, True),
        (False, -1, True, True),
        (True, 1, False, True),
        (True, -1, False, True),
        (False, NAN, False, False),
    ],
)
def test_dubious(corrected: bool, sign: float, first_corrected: bool, expected: bool) -> None:
    assert dubious([corrected], [sign], [first_corrected]).tolist() == [expected]


def test_stellar_flags() -> None:
    cases = list(
        itertools.product(
            (NAN, -999.0, 0.0, 1.3, 1.4),
            (NAN, -999.0, 0.0, 1.3, 1.4),
            (NAN, -999.0, 0.4, 0.5),
            (NAN, 1.9, 2.0),
            (NAN, -0.2, -0.13, 0.05, 0.1, 0.2),
        )
    )
    flags = stellar_flags(*np.array(cases).T)
    for i, (distnr, distpsnr1, sgscore1, chinr, sharpnr) in enumerate(cases):
        near_ztf, near_ps1 = 0 <= distnr < 1.4, 0 <= distpsnr1 < 1.4
        star_ps1, star_ztf = sgscore1 > 0.4, chinr < 2 and -0.13 < sharpnr < 0.1
        stellar = (near_ztf and near_ps1 and star_ps1) or (near_ztf and not near_ps1 and star_ztf)
        assert [flag[i] for flag in flags] == [near_ztf, near_ps1, star_ps1, star_ztf, stellar]
