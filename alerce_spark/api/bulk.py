"""Rows of many objects in one reply, as JSON, Arrow or Parquet: rows of the routes of one object, with `oid`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from urllib.parse import quote

import polars as pl
import pyarrow as pa
from fastapi import APIRouter, Request
from starlette.responses import Response

from alerce_spark.api import examples, forms, ztf
from alerce_spark.api.errors import BadParameters
from alerce_spark.api.parameters import Parameters
from alerce_spark.api.state import State
from alerce_spark.lake.tables import TABLES

router = APIRouter(prefix="/bulk", tags=["Bulk"])

#: Most objects of a request, and objects of a part of its reply: the rows of a part are in memory together.
MOST_OIDS = 500
_PART = 50
#: Largest header with the names of unknown objects [bytes].
_LONGEST_HEADER = 6_000
UNKNOWN = "X-Unknown-Oids"

Places = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class _Rows:
    """Rows of a table of the lake: the columns to read, and their conversion for a reply."""

    table: str
    columns: Sequence[str]
    shape: Callable[[pl.DataFrame], pl.DataFrame]

    @cached_property
    def schema(self) -> pa.Schema:
        """Schema of the replies."""
        fields = [TABLES[self.table].arrow.field(name) for name in self._read]
        return forms.schema_of(self.shape(pl.DataFrame(pa.schema(fields).empty_table())))

    @property
    def _read(self) -> list[str]:
        return list(dict.fromkeys(["oid", *self.columns]))

    def part(self, state: State, places: Places) -> pa.Table:
        """Rows of some objects, in their order."""
        rows = self.shape(state.rows_of(places, {self.table: self._read})[self.table])
        order = pl.DataFrame({"oid": list(places)})
        return order.join(rows, "oid", "inner", maintain_order="left_right").to_arrow().cast(self.schema)


@dataclass(frozen=True)
class _Probabilities:
    """Classes, from the index."""

    schema: pa.Schema

    def part(self, state: State, places: Places) -> pa.Table:
        """Probabilities of some objects, in their order; for each object by classifier, best first."""
        with state.index.one_state():
            rows = [{"oid": oid} | row for oid in places for row in state.index.probabilities(oid) or ()]
        return pa.Table.from_pylist(rows, self.schema)


def _detections(rows: pl.DataFrame) -> pl.DataFrame:
    fixed = {"tid": pl.lit("ztf"), "phase": pl.lit(0.0), "step_id_corr": pl.lit(ztf.STEP)}
    return rows.sort("mjd", "candid").with_columns(**fixed)


def _limits(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.drop_nulls("diffmaglim").sort("mjd", "fid").select("oid", pl.lit("ztf").alias("tid"), *ztf.LIMIT)


def _forced(rows: pl.DataFrame) -> pl.DataFrame:
    absent = {"e_ra": pl.lit(None, pl.Float64), "e_dec": pl.lit(None, pl.Float64)}
    fixed = {"tid": pl.lit("ztf"), "dubious": pl.lit(False), "has_stamp": pl.lit(False)}
    name = pl.concat_str("oid", pl.col("pid").cast(pl.String)).alias("candid")
    return rows.drop_nulls("mag").sort("mjd", "pid").with_columns(name, **fixed, **absent)


def _features(rows: pl.DataFrame) -> pl.DataFrame:
    columns = {"oid": pl.String, "name": pl.String, "value": pl.Float64, "fid": pl.Int32, "version": pl.String}
    found = [
        {"oid": of_one["oid"][0]} | row
        for of_one in rows.partition_by("oid", maintain_order=True)
        for row in ztf.long(of_one, None)
    ]
    return pl.DataFrame(found, columns)


def _magstats(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.sort("fid").with_columns(step_id_corr=pl.lit(ztf.STEP))


_KINDS: dict[str, _Rows | _Probabilities] = {
    "detections": _Rows("detections", ztf.DETECTION, _detections),
    "non_detections": _Rows("non_detections", ztf.LIMIT, _limits),
    "forced_photometry": _Rows("forced_photometry", (*ztf.FORCED, *ztf.FORCED_EXTRA), _forced),
    "features": _Rows("features", ztf.FEATURE_COLUMNS, _features),
    "magstats": _Rows("magstats", ztf.MAGSTAT, _magstats),
    "probabilities": _Probabilities(
        pa.schema(
            [
                *((name, pa.string()) for name in ("oid", "classifier_name", "classifier_version", "class_name")),
                *(("probability", pa.float64()), ("ranking", pa.int32())),
            ]
        )
    ),
}


def _rows(kind: str, request: Request) -> Response:
    asked = Parameters(request.query_params)
    form, oids = forms.form_of(request, asked), asked.texts("oid")
    if not 0 < len(oids) <= MOST_OIDS:
        asked.errors.setdefault("oid", f"from 1 to {MOST_OIDS} objects can be requested at once")
    if asked.errors:
        raise BadParameters(asked.errors)
    state: State = request.app.state.services
    places = state.index.places(oids)
    known = [oid for oid in oids if oid in places]

    def parts() -> Iterator[pa.Table]:
        for begin in range(0, len(known), _PART):
            yield _KINDS[kind].part(state, {oid: places[oid] for oid in known[begin : begin + _PART]})

    return forms.stream(parts(), _KINDS[kind].schema, form, _unknown(oids, places))


def _unknown(oids: Sequence[str], places: Places) -> dict[str, str]:
    """A header with the names of unknown objects, whose rows are missing."""
    names = ",".join(quote(oid) for oid in oids if oid not in places)
    if len(names) > _LONGEST_HEADER:
        names = names[:_LONGEST_HEADER].rpartition(",")[0] + quote(",…", safe=",")
    return {UNKNOWN: names} if names else {}


_MEANINGS = {
    "detections": "Detections of objects, by time.",
    "non_detections": "Upper limits of objects, by time; visits without a limit are left out.",
    "forced_photometry": "Forced photometry of objects, by time; measurements without a magnitude are left out.",
    "features": "The latest features of objects, one row each.",
    "magstats": "Statistics of objects in each band.",
    "probabilities": "Probabilities of all classes of objects by each classifier, best first.",
}
for _name, _meaning in _MEANINGS.items():
    router.add_api_route(
        f"/{_name}",
        partial(_rows, _name),
        name=f"bulk_{_name}",
        description=f"{_meaning} Objects in the order of the request; {UNKNOWN} names unknown ones.",
        openapi_extra=examples.BULK[_name],
    )
