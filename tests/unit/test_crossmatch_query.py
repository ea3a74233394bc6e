"""The crossmatch query with packets, catalogues and a service; a list of batches replaces Spark."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from numpy.typing import ArrayLike
from polars.testing import assert_frame_equal

from alerce_spark import lake as lakes
from alerce_spark import sky
from alerce_spark.alerts.avro import decode
from alerce_spark.crossmatch.catalogs import Catalog
from alerce_spark.crossmatch.rows import ATTEMPTS, attempts
from alerce_spark.lake import catalogs, lookup, write
from alerce_spark.lake.tables import TABLES
from alerce_spark.lightcurves.assemble import assemble
from alerce_spark.simulation.night import simulate
from alerce_spark.streaming.queries import crossmatch, lightcurves
from alerce_spark.streaming.queries.crossmatch import Crossmatch, lacking, match_objects
from alerce_spark.surveys.ztf import ZTF

CATALOGS = tuple(neighbour.catalog for neighbour in ZTF.neighbours)
SETTINGS = Catalog(
    title="AllWISE",
    id=("id",),
    ra=("ra",),
    dec=("dec",),
    radius=1.0,
    attributes={name: {"names": [name], "unit": "mag"} for name in ("w1mpro", "w2mpro", "w3mpro")},
)


class _Packets:
    """A stand-in for a DataFrame of packets, with the parts that the query uses."""

    def __init__(self, packets: Sequence[bytes], batch: int = 7) -> None:
        self._packets, self._batch = packets, batch

    def select(self, *columns: str) -> _Packets:
        assert columns == ("packet", "received")
        return self

    def mapInArrow(self, function: Callable[..., Any], ddl: str) -> _Packets:
        now = datetime.now(UTC)
        rows = [
            pa.RecordBatch.from_arrays(
                [pa.array(some, pa.binary()), pa.array([now] * len(some), pa.timestamp("us", "UTC"))],
                ["packet", "received"],
            )
            for some in (self._packets[k : k + self._batch] for k in range(0, len(self._packets), self._batch))
        ]
        self._made = list(function(iter(rows)))
        return self

    def toArrow(self) -> pa.Table:
        return pa.Table.from_batches(self._made, crossmatch.PIECES)


def _query(lake: str, **options: Any) -> Crossmatch:
    return Crossmatch(None, lake, "ztf", lambda: None, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def night() -> list[bytes]:
    return simulate(31, objects=30, nights=8, stamps=False).packets


@pytest.fixture(scope="module")
def first_alerts(night: list[bytes]) -> pl.DataFrame:
    """The alert of smallest candid of each object, as fastavro reads it: oid, candid, ra, dec, jd."""
    alerts = [next(fastavro.reader(io.BytesIO(packet))) for packet in night]
    rows = [{"oid": a["objectId"]} | {k: a["candidate"][k] for k in ("candid", "ra", "dec", "jd")} for a in alerts]
    return pl.DataFrame(rows).sort("candid").unique("oid", keep="first", maintain_order=True)


@pytest.fixture
def lake(tmp_path: Path) -> str:
    write.create(str(tmp_path / "lake"), 4)
    return str(tmp_path / "lake")


def _wise(lake: str, first_alerts: pl.DataFrame, folder: Path) -> None:
    """AllWISE in the lake: a source 0.5 arcsec from every second object, 1.5 arcsec from the others."""
    k = np.arange(len(first_alerts))
    file = folder / "wise.csv"
    dec = first_alerts["dec"] + np.where(k % 2 == 0, 0.5, 1.5) / 3600
    rows = {"id": k, "ra": first_alerts["ra"], "dec": dec, "w1mpro": 15.0, "w2mpro": 14.0, "w3mpro": 12.5}
    pl.DataFrame(rows).write_csv(file)
    catalogs.import_catalog(lake, "allwise", SETTINGS, [file])


def _stored(lake: str) -> pl.DataFrame:
    rows = lakes.open(lake).table("xmatch").collect()
    assert rows.select(TABLES["xmatch"].key).is_duplicated().sum() == 0
    return rows.sort("oid", "catalog")


def test_one_row_an_object_and_catalogue_at_the_earliest_alert(
    lake: str, night: list[bytes], first_alerts: pl.DataFrame, tmp_path: Path
) -> None:
    _wise(lake, first_alerts, tmp_path)
    done = _query(lake).process(_Packets([*night, b"no packet"]))
    assert done.alerts == len(night)
    assert done.latency["crossmatch"].size == len(night)
    stored = _stored(lake)
    assert done.rows == dict(stored.group_by("catalog").len().iter_rows())
    assert set(done.rows) == {*CATALOGS, "allwise"}
    for _, rows in stored.group_by("catalog"):
        at = rows.join(first_alerts, on=["oid", "candid", "ra", "dec"])
        assert len(at) == len(rows) == len(first_alerts)
    matched = stored.filter(pl.col("catalog") == "allwise").join(first_alerts.with_row_index("k"), on="oid").sort("k")
    expected = [str(k) if k % 2 == 0 else None for k in range(len(first_alerts))]
    assert matched["source_id"].to_list() == expected
    np.testing.assert_allclose(matched["separation"].drop_nulls(), 0.5, rtol=0, atol=1e-8)
    assert matched["attributes"][0] == {"w1mpro": "15", "w2mpro": "14", "w3mpro": "12.5"}

    again = _query(lake).process(_Packets(night[::-1]))
    assert again.rows == {}
    assert_frame_equal(_stored(lake), stored)


def test_the_order_of_arrival_does_not_show(
    lake: str, night: list[bytes], first_alerts: pl.DataFrame, tmp_path: Path
) -> None:
    _wise(lake, first_alerts, tmp_path)
    query = _query(lake)
    for order in np.array_split(np.arange(len(night))[::-1], 4):
        query.process(_Packets([night[k] for k in order], batch=3))
    backwards = _stored(lake).drop("attempted")
    other = str(tmp_path / "other")
    write.create(other, 4)
    _wise(other, first_alerts, tmp_path)
    _query(other).process(_Packets(night))
    assert_frame_equal(backwards, _stored(other).drop("attempted"))


def test_a_commit_that_fails_is_made_good_by_the_replay(
    lake: str, night: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(write, "commit", _fail)
        with pytest.raises(RuntimeError, match="injected"):
            _query(lake).process(_Packets(night))
    assert _stored(lake).is_empty()
    _query(lake).process(_Packets(night))
    once = _stored(lake)
    assert len(once) > 0
    _query(lake).process(_Packets(night))
    assert_frame_equal(_stored(lake), once)


def _fail(*args: object) -> None:
    raise RuntimeError("injected")


class _Service:
    """A service that answers on command, or never."""

    def __init__(self, room: int = 1000) -> None:
        self.asked: dict[str, tuple[float, float]] = {}
        self.room = room
        self._finished: list[pa.Table] = []

    def submit(self, oids: Sequence[str], ra: ArrayLike, dec: ArrayLike) -> int:
        new = [row for row in zip(oids, np.asarray(ra), np.asarray(dec), strict=True) if row[0] not in self.asked]
        taken = new[: max(self.room - len(self.asked), 0)]
        self.asked |= {oid: (float(a), float(d)) for oid, a, d in taken}
        return len(taken)

    def collect(self) -> pa.Table:
        finished, self._finished = self._finished, []
        return pa.concat_tables([_NOTHING, *finished])

    def answer(self) -> None:
        size = len(self.asked)
        made = attempts(np.arange(size), "far", 3.0, pa.array(["x"] * size), np.full(size, 2.5), {})
        ra, dec = np.array(list(self.asked.values())).T
        table = made.drop(["row"]).append_column("oid", pa.array(list(self.asked))).append_column("ra", pa.array(ra))
        self._finished.append(table.append_column("dec", pa.array(dec)).select(_NOTHING.schema.names))
        self.asked = {}

    def forget(self) -> None:
        """As after a failure."""
        self.asked = {}


_NOTHING = pa.schema(
    [("oid", pa.string()), ("ra", pa.float64()), ("dec", pa.float64()), *list(ATTEMPTS)[1:]]
).empty_table()


def test_a_service_is_asked_once_and_again_after_it_failed(lake: str, night: list[bytes]) -> None:
    service = _Service()
    query = _query(lake, service=service, asked=("far",))
    half = len(night) // 2
    query.process(_Packets(night[:half]))
    seen = set(service.asked)
    assert seen == set(_stored(lake)["oid"])
    assert "far" not in _stored(lake)["catalog"]
    service.forget()
    query.process(_Packets(night[half:]))
    service.answer()
    query.process(_Packets([]))
    told = _stored(lake).filter(pl.col("catalog") == "far")
    # Of the dropped objects, those that came again.
    again = {next(fastavro.reader(io.BytesIO(p)))["objectId"] for p in night[half:]}
    assert set(told["oid"]) == again
    assert told["separation"].unique().to_list() == [2.5]
    assert told["candid"].null_count() == len(told)
    query.process(_Packets(night[half:]))
    assert service.asked == {}


def _fill(lake: str, night: list[bytes]) -> pl.DataFrame:
    """Detections, upper limits and objects of a night into the lake, as photometry makes them; the objects."""
    decoded = decode(night, ZTF)
    places = [decoded.alerts[name].to_numpy() for name in ("ra", "dec")]
    pixels = pl.Series("pixel", sky.healpix(*places, order=4), dtype=pl.Int32)
    homes = pl.DataFrame([pl.Series("oid", decoded.alerts["objectId"]), pixels]).unique("oid").sort("oid")
    versions = lookup.versions(lake, ["detections", "non_detections", "forced_photometry", "objects"])
    stored = lookup.stored_history(lake, pl.Series(decoded.alerts["objectId"]), *places, versions)
    rows = assemble(decoded, stored, homes, survey=ZTF, order=4)
    for name, new in (
        ("detections", rows.detections_new),
        ("non_detections", rows.limits_new),
        ("objects", rows.objects),
    ):
        write.commit(lake, name, versions[name], write.append(lake, name, new.select(TABLES[name].names).to_arrow()))
    return rows.objects


def test_every_object_of_the_lake_is_matched_once(
    lake: str, night: list[bytes], first_alerts: pl.DataFrame, tmp_path: Path
) -> None:
    objects = _fill(lake, night)
    _wise(lake, first_alerts, tmp_path)
    _query(lake).process(_Packets(night[:20]))
    before = _stored(lake).filter(catalog="allwise")

    def ask(ra: np.ndarray, dec: np.ndarray, mjd: np.ndarray) -> pa.Table:
        return catalogs.match(lake, "allwise", ra, dec, mjd)

    done = list(match_objects(lake, "ztf", "allwise", ask, lambda: None))
    assert sum(d.alerts for d in done) == len(objects) - len(before)
    stored = _stored(lake).filter(catalog="allwise")
    assert stored["oid"].to_list() == objects["oid"].sort().to_list()
    kept = stored.join(before, on="oid", how="semi")
    assert_frame_equal(kept, before)
    assert list(match_objects(lake, "ztf", "allwise", ask, lambda: None)) == []

    list(match_objects(lake, "ztf", "allwise", ask, lambda: None, again=True))
    renewed = _stored(lake).filter(catalog="allwise").join(objects, on="oid")
    assert len(renewed) == len(objects)
    np.testing.assert_array_equal(renewed["ra"], renewed["meanra"])
    assert renewed["candid"].null_count() == len(renewed)
    # The stream does not change rows about whole objects.
    _query(lake).process(_Packets(night))
    assert_frame_equal(_stored(lake).filter(catalog="allwise"), _stored_columns(renewed))


def _stored_columns(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(TABLES["xmatch"].names).sort("oid", "catalog")


def test_what_the_lake_lacks(lake: str, night: list[bytes]) -> None:
    objects = _fill(lake, night)
    every = pl.concat(lacking(lake, ["ps1_ztf", "ss_ztf"]))
    assert sorted(every["oid"]) == sorted(objects["oid"])
    _query(lake).process(_Packets(night))
    assert sum(len(part) for part in lacking(lake, ["ps1_ztf", "ss_ztf"])) == 0
    assert sum(len(part) for part in lacking(lake, ["ps1_ztf", "other"])) == len(objects)


def test_objects_that_the_service_forgot_are_found_in_the_lake(lake: str, night: list[bytes]) -> None:
    objects = _fill(lake, night)
    service = _Service(room=7)
    query = _query(lake, service=service, asked=("far",))
    told: list[str] = []
    for _ in range(40):
        query.process(_Packets([]))
        if service.asked:
            service.answer()
        told = _stored(lake).filter(pl.col("catalog") == "far")["oid"].to_list()
        if len(told) == len(objects):
            break
    assert told == objects["oid"].sort().to_list()


def test_wise_magnitudes_from_the_catalogue_or_from_what_is_stored(
    lake: str, first_alerts: pl.DataFrame, night: list[bytes], tmp_path: Path
) -> None:
    objects = first_alerts.select("oid", "ra", "dec", mjd=pl.col("jd") - 2400000.5)
    assert catalogs.wise(lake, objects) is None
    _query(lake).process(_Packets(night))
    assert catalogs.wise(lake, objects) is None
    _wise(lake, first_alerts, tmp_path)
    near = objects["oid"][::2].to_list()
    for _ in range(2):
        found = catalogs.wise(lake, objects)
        assert found is not None
        assert sorted(found["oid"].to_pylist()) == sorted(near)
        assert [set(found[name].to_pylist()) for name in ("w1mpro", "w2mpro", "w3mpro")] == [{15.0}, {14.0}, {12.5}]
        assert np.isnan(found["w4mpro"].to_numpy()).all()
        # Then from the table, as if a service had answered about AllWISE.
        _query(lake).process(_Packets(night))
        shutil.rmtree(Path(lake) / "catalogs", ignore_errors=True)
        catalogs._tables.clear()
    assert catalogs.wise(lake, objects.clear()) is None


def test_features_have_the_colours_of_the_counterpart(
    lake: str, first_alerts: pl.DataFrame, night: list[bytes], tmp_path: Path
) -> None:
    _fill(lake, night)
    _wise(lake, first_alerts, tmp_path)
    opened = lakes.open(lake)
    tables = [opened.table(name).collect() for name in ("detections", "non_detections")]
    found, failures = lightcurves._features(*tables, lake)
    assert failures == []
    matched = set(first_alerts["oid"][::2])
    assert found.num_rows > 3
    for row in found.select(["oid", "W1-W2", "W2-W3"]).to_pylist():
        assert (row["W1-W2"], row["W2-W3"]) == ((1.0, 1.5) if row["oid"] in matched else (None, None))
