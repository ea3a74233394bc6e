"""The local catalogue `tns`: public objects from files, one row an id, modified last; kept up to date by `fetch`.

The rows of the catalogue show up to what time it is complete, so there is no other state: files are imported in the
order of time, and a round ends at the first that is not available; the next round begins there. Importing a file again
or late changes nothing.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from alerce_spark import surveys
from alerce_spark.config import conf_dir
from alerce_spark.crossmatch.catalogs import Catalog, CatalogSettingsError, load
from alerce_spark.lake import catalogs
from alerce_spark.tns.files import DamagedFile, Public, due, read
from alerce_spark.tns.http import TnsError
from alerce_spark.tns.server import Tns

log = logging.getLogger(__name__)

NAME = "tns"
_TIME = "%Y-%m-%d %H:%M:%S"
_OWN = {"source_id": "objid", "dec": "declination"}


@dataclass
class Updated:
    """Result of an import: objects added, changed and removed; a remark on each file; the failure, if any."""

    added: int = 0
    changed: int = 0
    gone: int = 0
    rows: int = 0
    files: list[str] = field(default_factory=list)
    failure: str | None = None


def settings() -> Catalog:
    """Settings of the catalogue in conf/catalogs.toml. Raises CatalogSettingsError where they are missing."""
    file = conf_dir() / "catalogs.toml"
    known = load(file, surveys.get(surveys.DEFAULT))
    if NAME not in known:
        raise CatalogSettingsError(f"{file} has no catalogue {NAME}; take the section of the one in the package")
    return known[NAME]


def import_files(lake: str, paths: Sequence[Path], scratch: Path | None = None) -> Updated:
    """Import files into the catalogue, all or none. Raises DamagedFile."""
    with tempfile.TemporaryDirectory(prefix="alerce-tns-", dir=scratch) as folder:
        read_files = [(path.name, read(path, settings(), Path(folder))) for path in paths]
        return _taken(lake, read_files, Path(folder))


def fetch(lake: str, tns: Tns, now: datetime | None = None, scratch: Path | None = None) -> Updated:
    """Bring the catalogue up to date; `failure` of the result names a file that was not available, and why."""
    now = now or datetime.now(UTC)
    found: list[tuple[str, Public]] = []
    failure = None
    with tempfile.TemporaryDirectory(prefix="alerce-tns-", dir=scratch) as folder:
        for wanted in due(known_until(lake, now), now):
            try:
                file = Path(folder) / wanted.name
                if not tns.file(wanted.name, file):
                    failure = f"TNS has no {wanted.name} yet"
                    break
                public = read(file, settings(), Path(folder))
                if public.until < wanted.begin:
                    failure = f"TNS has no {wanted.name} yet but an old one of {public.until:%Y-%m-%d}"
                    break
            except (TnsError, DamagedFile) as error:
                failure = str(error)
                break
            found.append((wanted.name, public))
        updated = _taken(lake, found, Path(folder))
    updated.failure = failure
    return updated


def known_until(lake: str, now: datetime) -> datetime | None:
    """Time of the last change in the catalogue; None for an empty one."""
    if catalogs.local(lake, NAME) is None:
        return None
    times = catalogs.everything(lake, NAME)["lastmodified"].str.to_datetime(_TIME, strict=False, time_zone="UTC")
    last = times.filter(times <= now).max()
    return last if isinstance(last, datetime) else None


def _taken(lake: str, found: Sequence[tuple[str, Public]], scratch: Path) -> Updated:
    known = _known(lake)
    merged = known
    for _, public in found:
        merged = _merged(merged, public)
    updated = Updated(rows=len(merged), files=[f"{name}: {public.counts}" for name, public in found])
    updated.gone = len(known.join(merged, on="source_id", how="anti"))
    updated.added = len(merged.join(known, on="source_id", how="anti"))
    same = merged.join(known, on=merged.columns, how="semi", nulls_equal=True)
    updated.changed = len(merged) - updated.added - len(same)
    if updated.added or updated.changed or updated.gone:
        file = scratch / "merged.parquet"
        merged.rename(_OWN).write_parquet(file)
        catalogs.import_catalog(lake, NAME, settings(), [file], scratch)
    return updated


def _known(lake: str) -> pl.DataFrame:
    """Rows of the catalogue; no rows where it is not imported."""
    if catalogs.local(lake, NAME) is not None:
        return catalogs.everything(lake, NAME)
    kinds = {name: pl.Float64 if a.type == "number" else pl.String for name, a in settings().attributes.items()}
    return pl.DataFrame(schema={"source_id": pl.String, "ra": pl.Float64, "dec": pl.Float64, **kinds})


def _merged(known: pl.DataFrame, public: Public) -> pl.DataFrame:
    """Known rows and those of a file; for each id the row modified last, at equal times that of the file."""
    # A row without a time of modification gets the file's last time.
    until = public.until.strftime(_TIME)
    new = public.rows.select(known.columns).with_columns(pl.col("lastmodified").fill_null(until))
    if public.is_whole:
        left = known.filter(pl.col("lastmodified") > until)
        known = pl.concat([known.join(new, on="source_id", how="semi"), left]).unique("source_id")
    rows = pl.concat([known.with_columns(order=0), new.with_columns(order=1)])
    rows = rows.sort("lastmodified", "order").unique("source_id", keep="last", maintain_order=True)
    return rows.drop("order").sort("source_id")
