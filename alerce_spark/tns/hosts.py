"""Galaxies of the local catalogues near an object, from which a person chooses its host."""

from __future__ import annotations

import polars as pl

from alerce_spark.lake import catalogs

#: Conditions for a galaxy in each catalogue: its type in SDSS; in Pan-STARRS more light than a point source has.
_EXTENDED_MAG = 0.05
_GALAXIES = {
    "sdss": pl.col("type").is_in(["3", "GALAXY"]),
    "ps1": (pl.col("i") - pl.col("i_kron")) > _EXTENDED_MAG,
}
_REDSHIFTS = ("redshift", "photometric_redshift")
_SCHEMA = {
    **{"catalog": pl.String, "source_id": pl.String, "ra": pl.Float64, "dec": pl.Float64, "separation": pl.Float64},
    **dict.fromkeys((*_REDSHIFTS, "r"), pl.Float64),
}


def candidates(lake: str, ra: float, dec: float, radius: float = 30.0) -> pl.DataFrame:
    """Galaxies within `radius` arcsec of a position [deg], the nearest first.

    Columns catalog, source_id, ra, dec [deg], separation [arcsec], redshift (spectroscopic), photometric_redshift,
    r [mag]; null where a catalogue lacks the value. No rows where no catalogue with galaxies is imported.
    """
    found = [pl.DataFrame(schema=_SCHEMA)]
    for name, is_galaxy in _GALAXIES.items():
        if catalogs.local(lake, name) is not None:
            rows = catalogs.sources(lake, name, ra, dec, radius).filter(is_galaxy)
            found.append(
                rows.with_columns(catalog=pl.lit(name)).select(c for c in _SCHEMA if c in (*rows.columns, "catalog"))
            )
    return pl.concat(found, how="diagonal").sort("separation", "catalog", "source_id")
