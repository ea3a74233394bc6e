"""Packets ∪ stored history → the rows to write: which copy of each detection counts, corrections, and statistics.

A candid may arrive as an alert and inside many other packets; which row is kept must not depend on the order of
arrival (docs/design.md, "Rank"):

* detections: the alert itself ranks above a copy carried by another alert; among carriers the smallest candid wins;
* upper limits: the carrier with the smallest candid;
* forced photometry: the latest processing (`Forced.rank`), then the carrier with the smallest candid.

A row that ranks above the stored one is an *upgrade* and replaces the whole row. A stored detection whose `dubious`
flag changes because an earlier first detection arrived is *flagged*: only that column is rewritten.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from alerce_spark import sky
from alerce_spark.alerts.model import Decoded, sign
from alerce_spark.lightcurves.correction import correct
from alerce_spark.lightcurves.statistics import NULL_RFID, summarise
from alerce_spark.surveys.survey import MJD_ZERO, Survey

#: Two upper limits of an object and band belong to the same visit if their mjd agree within this [d].
LIMIT_MJD_STEP = 1e-5

#: Columns of stored detections that ranks and statistics need.
DETECTION_COLUMNS = (
    *("oid", "candid", "mjd", "fid", "ra", "dec", "magpsf", "sigmapsf", "magpsf_corr", "magap", "isdiffpos"),
    *("corrected", "dubious", "distnr", "distpsnr1", "sgscore1", "chinr", "sharpnr", "rfid", "mjdendref"),
    *("ndethist", "ncovhist", "mjdstarthist", "mjdendhist", "has_stamp", "parent_candid"),
)
LIMIT_COLUMNS = ("oid", "fid", "mjd", "diffmaglim", "parent_candid")
FORCED_COLUMNS = ("oid", "pid", "rfid", "parent_candid")


@dataclass(frozen=True)
class Stored:
    """Stored rows of the objects of a batch: detections, upper limits and forced photometry, columns as above."""

    detections: pl.DataFrame
    limits: pl.DataFrame
    forced: pl.DataFrame


@dataclass(frozen=True)
class Rows:
    """Rows to write, columns named as in the tables (`pixel`, `healpix29`, `survey` included).

    `*_new` rows are appended; `*_upgrade` rows replace the stored row of their key; `flagged` holds oid, candid, pixel,
    dubious of stored detections. `objects` and `magstats` have a row for every object of the batch.
    """

    detections_new: pl.DataFrame
    detections_upgrade: pl.DataFrame
    flagged: pl.DataFrame
    limits_new: pl.DataFrame
    limits_upgrade: pl.DataFrame
    forced_new: pl.DataFrame
    forced_upgrade: pl.DataFrame
    objects: pl.DataFrame
    magstats: pl.DataFrame


def unusable_entries(decoded: Decoded, survey: Survey) -> list[tuple[int, str]]:
    """Entries of a packet's history that cannot be used in a light curve: (row of the packet, reason), once each.

    They have no time or no known filter. The rest of the packet is used.
    """
    rows = decoded.alerts["row"].to_numpy()
    found: dict[int, str] = {}
    for record, table in ((survey.previous, decoded.previous), (survey.forced, decoded.forced)):
        usable = _usable(table, survey)
        alert = table["alert"].to_numpy()
        for i in np.flatnonzero(~usable):
            entry = ", ".join(f"{name} {table[name][int(i)].as_py()}" for name in survey.when_and_band)
            found.setdefault(int(rows[alert[i]]), f"{record.path}: entry without usable time or filter ({entry})")
    return sorted(found.items())


def _usable(table: pa.Table, survey: Survey) -> NDArray[np.bool_]:
    mjd, fid = table["mjd"].to_numpy(), table["fid"].to_numpy()
    with np.errstate(invalid="ignore"):
        return (mjd > 0) & (mjd < 1e5) & np.isin(fid, list(survey.bands))


def assemble(decoded: Decoded, stored: Stored, homes: pl.DataFrame, *, survey: Survey, order: int) -> Rows:
    """Rows of the tables from decoded packets and the stored rows of their objects.

    `homes` has a row for every object of `decoded`: oid, pixel (its home). `order` is the lake's HEALPix order.
    """
    own = _own(decoded, survey)
    carried = _carried(decoded, own, survey)
    detections = _placed(_detections(own, carried, stored.detections, survey), "ra", "dec", survey, order)
    limits = _placed(_limits(carried, stored.limits), "_carrier_ra", "_carrier_dec", survey, order)
    forced = _placed(_forced(decoded, own, stored.forced, survey), "ra", "dec", survey, order)

    history = _kept(stored.detections, detections)
    whole = pl.concat([history.select(DETECTION_COLUMNS), detections.select(DETECTION_COLUMNS)], how="vertical_relaxed")
    per_band, per_object, dubious = statistics_of(whole, _all_limits(limits, stored.limits), homes)

    kept = dubious[: len(history)]
    changed = history.filter(pl.Series(kept) != pl.col("dubious"))
    flagged = changed.select(
        "oid",
        "candid",
        pixel=pl.Series(sky.healpix(changed["ra"], changed["dec"], order), dtype=pl.Int32),
        dubious=~pl.col("dubious"),
    )
    detections = detections.with_columns(dubious=pl.Series(dubious[len(history) :]))
    objects, magstats = _object_rows(per_band, per_object, homes, survey)
    return Rows(*_split(detections), flagged, *_split(limits), *_split(forced), objects, magstats)


def light_curves(decoded: Decoded, stored: Stored, survey: Survey) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Detections and upper limits of every object of `decoded`, packets ∪ stored history by rank.

    Columns are those of `stored`, which must have DETECTION_COLUMNS and LIMIT_COLUMNS and may have more; `dubious` is
    not set for new rows. The order of rows is undefined.
    """
    own = _own(decoded, survey)
    carried = _carried(decoded, own, survey)
    detections = _detections(own, carried, stored.detections, survey)
    kept = _kept(stored.detections, detections)
    whole = pl.concat([kept, detections.select(kept.columns)], how="vertical_relaxed")
    return whole, _all_limits(_limits(carried, stored.limits), stored.limits)


def _kept(stored: pl.DataFrame, fresh: pl.DataFrame) -> pl.DataFrame:
    """Stored detections that no new detection upgrades."""
    return stored.join(fresh.filter("_upgrade").select("oid", "candid"), on=["oid", "candid"], how="anti")


def _own(decoded: Decoded, survey: Survey) -> pl.DataFrame:
    """Detections that are the alerts themselves, in table columns; row i is alert i."""
    about = {f.target for f in survey.top.fields} - {"objectId", "candid"}
    frame = _table_columns(decoded.alerts, survey).rename({"objectId": "oid"}).drop("row", *about)
    return frame.with_columns(
        has_stamp=True, parent_candid=pl.lit(None, pl.Int64), _rank=pl.lit(0, pl.Int64), _carrier=pl.col("candid")
    )


def _carried(decoded: Decoded, own: pl.DataFrame, survey: Survey) -> pl.DataFrame:
    """Usable entries of the history with their object and carrier; `candid` is null for upper limits."""
    previous = decoded.previous.filter(pa.array(_usable(decoded.previous, survey)))
    frame = _table_columns(previous, survey).drop("alert")
    carrier = own[previous["alert"].to_numpy()]
    # A detection far from its carrier has a damaged position: look-ups of an object search only around one position.
    # Comparisons with NaN are false.
    apart = sky.separation(*(f[c].fill_null(np.nan).to_numpy() for f in (frame, carrier) for c in ("ra", "dec")))
    readable = pl.Series(apart <= sky.OBJECT_RADIUS) & frame["ra"].is_between(0, 360, closed="left")
    return frame.with_columns(
        oid=carrier["oid"],
        ra=pl.when(readable.fill_null(False)).then("ra").otherwise(carrier["ra"]),
        dec=pl.when(readable.fill_null(False)).then("dec").otherwise(carrier["dec"]),
        has_stamp=False,
        parent_candid=carrier["candid"],
        _rank=pl.lit(1, pl.Int64),
        _carrier=carrier["candid"],
        _carrier_ra=carrier["ra"],
        _carrier_dec=carrier["dec"],
    )


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _table_columns(table: pa.Table, survey: Survey) -> pl.DataFrame:
    """Convert Julian dates to MJD, `isdiffpos` to the sign, and limits that are codes (negative) to null."""
    frame = _frame(table)
    dates = {name: to for name, to in survey.julian.items() if name in frame.columns}
    return frame.with_columns(
        *((pl.col(name) - MJD_ZERO).alias(to) for name, to in dates.items() if to not in frame.columns),
        isdiffpos=pl.Series(sign(table["isdiffpos"], survey.spellings)).cast(pl.Int32),
        diffmaglim=pl.when(pl.col("diffmaglim") > 0).then("diffmaglim"),
    ).drop(*dates)


def _best(candidates: pl.DataFrame, stored: pl.DataFrame, key: list[str]) -> pl.DataFrame:
    """The best candidate row of each key that is not stored, or ranks above the stored row (`_upgrade` is true then).

    Smaller (`_rank`, `_carrier`) is better; `stored` has the key and the same two columns.
    """
    best = candidates.sort("_rank", "_carrier", maintain_order=True).unique(key, keep="first", maintain_order=True)
    held = stored.select(*key, _held=pl.lit(True), _held_rank="_rank", _held_carrier="_carrier")
    joined = best.join(held, on=key, how="left", maintain_order="left").with_columns(
        _upgrade=pl.col("_held").is_not_null()
    )
    above = (pl.col("_rank") < pl.col("_held_rank")) | (
        (pl.col("_rank") == pl.col("_held_rank")) & (pl.col("_carrier") < pl.col("_held_carrier"))
    )
    return joined.filter(~pl.col("_upgrade") | above).drop("_held", "_held_rank", "_held_carrier")


def _detections(own: pl.DataFrame, carried: pl.DataFrame, stored: pl.DataFrame, survey: Survey) -> pl.DataFrame:
    """New and better detections, corrected; their `dubious` flag waits for the statistics."""
    detections = carried.filter(pl.col("candid").is_not_null())
    keys = ["oid", "candid"]
    light = pl.concat(
        [
            f.select(*keys, "_rank", "_carrier", "_source", "_index")
            for f in (
                own.with_columns(_source=pl.lit(0)).with_row_index("_index"),
                detections.with_columns(_source=pl.lit(1)).with_row_index("_index"),
            )
        ]
    )
    held = stored.select(
        *keys,
        _rank=pl.when("has_stamp").then(0).otherwise(1).cast(pl.Int64),
        _carrier=pl.when("has_stamp").then("candid").otherwise("parent_candid"),
    )
    best = _best(light, held, keys)
    mine, theirs = (best.filter(pl.col("_source") == source) for source in (0, 1))
    rows = pl.concat(
        [own[mine["_index"]], detections[theirs["_index"]].drop("_carrier_ra", "_carrier_dec")], how="diagonal"
    )
    result = correct(*(_floats(rows, name) for name in ("magpsf", "sigmapsf", *survey.reference, "isdiffpos")))
    return rows.with_columns(
        _upgrade=pl.concat([mine["_upgrade"], theirs["_upgrade"]]),
        corrected=pl.Series(result.corrected),
        magpsf_corr=_nullable(result.magpsf_corr),
        sigmapsf_corr=_nullable(result.sigmapsf_corr),
        sigmapsf_corr_ext=_nullable(result.sigmapsf_corr_ext),
        dubious=pl.lit(False),
    )


def _floats(rows: pl.DataFrame, name: str) -> NDArray[np.float64]:
    return rows[name].cast(pl.Float64).fill_null(np.nan).to_numpy()


def _nullable(values: NDArray[np.float64]) -> pl.Series:
    return pl.Series(values).fill_nan(None)


def _limits(carried: pl.DataFrame, stored: pl.DataFrame) -> pl.DataFrame:
    """New and better upper limits."""
    key = ["oid", "fid", "_visit"]
    visit = (pl.col("mjd") / LIMIT_MJD_STEP).round().cast(pl.Int64)
    # Entries of one packet may repeat a visit: their values decide which counts, not their order in the packet.
    found = carried.filter(pl.col("candid").is_null()).with_columns(_visit=visit, _rank=pl.lit(0, pl.Int64))
    held = stored.with_columns(_visit=visit, _rank=pl.lit(0, pl.Int64), _carrier=pl.col("parent_candid"))
    return _best(found.sort("pid", "diffmaglim"), held, key).drop("_visit")


def _forced(decoded: Decoded, own: pl.DataFrame, stored: pl.DataFrame, survey: Survey) -> pl.DataFrame:
    """New and better forced photometry with magnitudes and correction."""
    how = survey.forced_photometry
    table = decoded.forced.filter(pa.array(_usable(decoded.forced, survey)))
    carrier = own[table["alert"].to_numpy()]
    frame = (
        _frame(table)
        .drop("alert")
        .with_columns(
            oid=carrier["oid"],
            ra=carrier["ra"],
            dec=carrier["dec"],
            parent_candid=carrier["candid"],
            _rank=-pl.col(how.rank),
            _carrier=carrier["candid"],
        )
    )
    held = stored.with_columns(_rank=-pl.col(how.rank), _carrier=pl.col("parent_candid"))
    rows = _best(frame, held, ["oid", how.key]).drop(*survey.julian, strict=False)
    flux, error, zero = (_floats(rows, name) for name in (how.flux, how.error, how.zero_point))
    with np.errstate(all="ignore"):
        bad = np.isin(flux, (0, how.null)) | np.isin(error, (0, how.null)) | ~np.isfinite(zero) | (error < 0)
        scale = np.where(bad, np.nan, 10 ** ((8.9 - zero) / 2.5) * 1e6)
        flux, error = flux * scale, error * scale
        mag, e_mag = 23.9 - 2.5 * np.log10(np.abs(flux)), 2.5 / np.log(10) * error / np.abs(flux)
    magnr, sigmagnr, distnr = (_floats(rows, name) for name in survey.reference)
    result = correct(mag, e_mag, magnr, sigmagnr, distnr, np.sign(flux))
    return rows.with_columns(
        flux=_nullable(flux),
        e_flux=_nullable(error),
        mag=_nullable(mag),
        e_mag=_nullable(e_mag),
        isdiffpos=_nullable(np.sign(flux)).cast(pl.Int32),
        corrected=pl.Series(result.corrected),
        mag_corr=_nullable(result.magpsf_corr),
        e_mag_corr=_nullable(result.sigmapsf_corr),
        e_mag_corr_ext=_nullable(result.sigmapsf_corr_ext),
    )


def _placed(rows: pl.DataFrame, ra: str, dec: str, survey: Survey, order: int) -> pl.DataFrame:
    index = sky.healpix(rows[ra], rows[dec])
    return rows.with_columns(
        survey=pl.lit(survey.name),
        healpix29=pl.Series(index, dtype=pl.Int64),
        pixel=pl.Series(sky.parent(index, order), dtype=pl.Int32),
    )


def _all_limits(fresh: pl.DataFrame, stored: pl.DataFrame) -> pl.DataFrame:
    """Stored and new limits together; an upgraded visit appears twice, which changes no statistic."""
    return pl.concat([stored.select(LIMIT_COLUMNS), fresh.select(LIMIT_COLUMNS)], how="vertical_relaxed")


def statistics_of(
    detections: pl.DataFrame, limits: pl.DataFrame, homes: pl.DataFrame
) -> tuple[dict[str, NDArray], dict[str, NDArray], NDArray[np.bool_]]:
    """`statistics.summarise` of frames with DETECTION_COLUMNS and LIMIT_COLUMNS; object k is row k of `homes` (oid)."""
    oids = homes["oid"]
    number = pl.DataFrame({"oid": oids, "object": np.arange(len(oids))})
    group = detections.select("oid").join(number, on="oid", how="left", maintain_order="left")["object"].to_numpy()
    exact = {"oid", "candid", "fid", "rfid", "corrected", "dubious", "has_stamp", "parent_candid"}
    det = {
        name: detections[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
        for name in DETECTION_COLUMNS
        if name not in exact
    }
    det |= {name: detections[name].to_numpy() for name in ("candid", "fid", "corrected")}
    det["rfid"] = detections["rfid"].fill_null(NULL_RFID).to_numpy()
    nondet = limits.join(number, on="oid", how="inner")
    return summarise(
        group,
        det,
        {
            "object": nondet["object"].to_numpy(),
            "fid": nondet["fid"].to_numpy(),
            "mjd": nondet["mjd"].to_numpy(),
            "diffmaglim": nondet["diffmaglim"].cast(pl.Float64).fill_null(np.nan).to_numpy(),
        },
        len(oids),
    )


def _object_rows(
    per_band: dict[str, NDArray], per_object: dict[str, NDArray], homes: pl.DataFrame, survey: Survey
) -> tuple[pl.DataFrame, pl.DataFrame]:
    objects = pl.DataFrame(per_object).with_columns(pl.selectors.float().fill_nan(None))
    objects = objects.with_columns(
        oid=homes["oid"],
        pixel=homes["pixel"],
        survey=pl.lit(survey.name),
        healpix29=pl.Series(sky.healpix(per_object["meanra"], per_object["meandec"]), dtype=pl.Int64),
    )
    of = objects[per_band["object"]].select("oid", "pixel", "survey", "healpix29")
    magstats = pl.DataFrame(per_band).drop("object").with_columns(pl.selectors.float().fill_nan(None))
    return objects, pl.concat([of, magstats], how="horizontal")


def _split(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    return rows.filter(~pl.col("_upgrade")), rows.filter("_upgrade")
