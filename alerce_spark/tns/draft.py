"""Make the report of an object: discovery, last limit before it, photometry, host, in TNS's bulk report format.

Magnitudes are those of the difference image, as usual for a discovery: an object in the reference image has another
apparent magnitude. Measurements below the reference are not light of a new source and are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import polars as pl
from astropy.time import Time

from alerce_spark.classifiers.taxonomy import STAMP
from alerce_spark.config import ConfigError, TnsSettings
from alerce_spark.errors import InputError
from alerce_spark.lake import catalogs
from alerce_spark.lake.read import Lake, open_lake
from alerce_spark.tns.catalog import NAME

Json = dict[str, Any]

#: Numbers of TNS for ZTF's filters and camera, for AB magnitudes, and for a possible supernova.
FILTERS = {1: "110", 2: "111", 3: "112"}
INSTRUMENT, AB_MAGNITUDE, POSSIBLE_SUPERNOVA = "196", "1", "1"
_EXPOSURE_S, _OBSERVER = "30", "Robot"
_INTERNAL_NAME = {"prefix": "ZTF", "year_format": "YY", "postfix": ""}
#: Archive "Other", where there is no limit to report.
_NO_LIMIT = {"archiveid": "0", "archival_remarks": "No non-detection in the alerts of the survey"}
_MOST_POINTS = 10


@dataclass(frozen=True)
class Host:
    """The galaxy that a person chose as the host."""

    name: str
    redshift: float | None = None


def draft(
    lake: str, oid: str, settings: TnsSettings, *, host: Host | None = None, remarks: str = "", known: bool = False
) -> Json:
    """The report of an object. With `known`, also where TNS has an object nearby already.

    Raises ConfigError where the settings do not name the reporter, InputError for an object that cannot be reported.
    """
    missing = [n for n in ("bot_name", "reporting_group", "data_source", "reporters") if not getattr(settings, n)]
    if missing:
        raise ConfigError(f"a report needs {', '.join(missing)} in [tns] of the settings")
    if host is not None and host.redshift is not None and not math.isfinite(host.redshift):
        raise InputError(f"the redshift of a host is a number, not {host.redshift!r}")
    sky = open_lake(lake)
    about = sky.table("objects", oid=oid).collect()
    if len(about) != 1:
        raise InputError(f"no object {oid} in {lake}" if about.is_empty() else f"{oid} is seen at {len(about)} places")
    ra, dec = about["meanra"][0], about["meandec"][0]
    if not known and (name := known_as(lake, ra, dec)) is not None:
        raise InputError(f"TNS has {name} at the place of {oid}; report it all the same with --known")
    brighter = pl.col("isdiffpos") == 1, pl.col("magpsf").is_not_null()
    detections = sky.table("detections", oid=oid).filter(*brighter)
    points = detections.sort("mjd", "candid").head(_MOST_POINTS).collect()
    if points.is_empty():
        raise InputError(f"{oid} has no detection brighter than the reference image: there is nothing to report")
    discovery = points.row(0, named=True)
    report: Json = {
        "ra": _place(ra, about["sigmara"][0], math.cos(math.radians(dec))),
        "dec": _place(dec, about["sigmadec"][0], 1.0),
        "reporting_group_id": str(settings.reporting_group),
        "discovery_data_source_id": str(settings.data_source),
        "reporter": settings.reporters,
        "discovery_datetime": _date(discovery["mjd"]),
        "at_type": POSSIBLE_SUPERNOVA,
        "internal_name": oid,
        "internal_name_format": _INTERNAL_NAME,
        "remarks": " ".join(filter(None, [_classified(sky, oid), remarks.strip()])),
        "non_detection": _limit(sky, oid, discovery["mjd"]),
        "photometry": {"photometry_group": {str(k): _point(row) for k, row in enumerate(points.to_dicts())}},
    }
    if host is not None:
        report |= {"host_name": host.name}
        report |= {} if host.redshift is None else {"host_redshift": f"{host.redshift:.6g}"}
    return report


def known_as(lake: str, ra: float, dec: float) -> str | None:
    """Name of the object of the local catalogue at a position [deg], if any."""
    local = catalogs.local(lake, NAME)
    if local is None:
        return None
    found = catalogs.sources(lake, NAME, ra, dec, local.settings.radius)
    return None if found.is_empty() else f"{found['name_prefix'][0] or ''}{found['name'][0]}"


def _place(value: float, error: float | None, scale: float) -> Json:
    """A coordinate [deg] and its error [deg], which the report gives in arcsec on the sky."""
    place = {"value": f"{value:.7f}", "units": "arcsec"}
    return place if not error else place | {"error": f"{error * scale * 3600:.3f}"}


def _date(mjd: float) -> str:
    return str(Time(mjd, format="mjd", scale="utc").iso)


def _point(row: Json) -> Json:
    limit = {} if row["diffmaglim"] is None else {"limiting_flux": _magnitude(row["diffmaglim"])}
    error = {} if row["sigmapsf"] is None else {"flux_error": _magnitude(row["sigmapsf"])}
    return _observed(row) | {"flux": _magnitude(row["magpsf"]), **error, **limit}


def _limit(sky: Lake, oid: str, before: float) -> Json:
    """The last limit before the discovery."""
    limits = sky.table("non_detections", oid=oid).filter(pl.col("mjd") < before, pl.col("diffmaglim").is_not_null())
    last = limits.sort("mjd", "fid").tail(1).collect().to_dicts()
    return _observed(last[0]) | {"limiting_flux": _magnitude(last[0]["diffmaglim"])} if last else dict(_NO_LIMIT)


def _observed(row: Json) -> Json:
    when = {"obsdate": _date(row["mjd"]), "flux_units": AB_MAGNITUDE, "filter_value": FILTERS[row["fid"]]}
    return when | {"instrument_value": INSTRUMENT, "exptime": _EXPOSURE_S, "observer": _OBSERVER}


def _magnitude(value: float) -> str:
    return f"{value:.4f}"


def _classified(sky: Lake, oid: str) -> str:
    """The result of the stamp classifier as a sentence."""
    rows = sky.classes(STAMP, oid=oid).collect().to_dicts()
    if not rows:
        return ""
    row = rows[0]
    return f"Stamp classifier {row['version']}: {row['class']} with probability {row['probability']:.2f}."
