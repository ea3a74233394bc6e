"""The CDS X-Match service, played by a local server that speaks its protocol: good, slow, broken, half and absent."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import Column, MaskedColumn, Table, vstack
from deltalake import DeltaTable

from alerce_spark import lake as lakes
from alerce_spark.cli import crossmatch as cli
from alerce_spark.cli import main
from alerce_spark.config import conf_dir
from alerce_spark.crossmatch import cds
from alerce_spark.crossmatch.catalogs import Attribute, Catalog, CatalogSettingsError, load
from alerce_spark.crossmatch.cds import FINISHED, Asynchronous, Cds, CdsError
from alerce_spark.crossmatch.rows import ATTEMPTS
from alerce_spark.lake import write
from alerce_spark.lake.tables import TABLES
from alerce_spark.local_kafka import free_port
from alerce_spark.sky import healpix, parent
from alerce_spark.streaming.pieces import PIECES
from alerce_spark.streaming.queries.crossmatch import Crossmatch
from alerce_spark.surveys.ztf import ZTF

_ERROR_PAGE = b"<html><head><title>504 Gateway Time-out</title></head><body>The server is busy</body></html>"
_REFUSAL = """<?xml version="1.0"?><VOTABLE version="1.3" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">
<INFO ID="QUERY_STATUS" name="QUERY_STATUS" value="ERROR">Message: {}</INFO></VOTABLE>"""


_ALLWISE = Catalog(
    title="AllWISE",
    id=("designation", "AllWISE"),
    ra=("RAJ2000",),
    dec=("DEJ2000",),
    radius=1.0,
    attributes={"w1mpro": Attribute(names=("w1mpro", "W1mag")), "w4mpro": Attribute(names=("w4mpro", "W4mag"))},
)


@dataclass
class _Request:
    fields: dict[str, str]
    positions: Table

    def __len__(self) -> int:
        return len(self.positions)


#: Behaviour of the server for a request with its whole answer: status, body, and headers.
_Mode = Callable[[_Request, bytes], tuple[int, bytes, dict[str, str]]]


def _good(request: _Request, answer: bytes) -> tuple[int, bytes, dict[str, str]]:
    return 200, answer, {}


class _Service:
    """The service on a free port: records `requests`, answers from `sources` in the next of `modes`, else correctly."""

    def __init__(self, sources: Table) -> None:
        self.sources, self.requests, self.modes = sources, list[_Request](), list[_Mode]()
        self.default: _Mode = _good
        self.edit: Callable[[Table], Table] = lambda answer: answer
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                service.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/xmatch/api/v1/sync"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        request = _request(handler.headers["Content-Type"], body)
        self.requests.append(request)
        mode = self.modes.pop(0) if self.modes else self.default
        content = io.BytesIO()
        self.edit(self.matches(request)).write(content, format="votable")
        status, page, headers = mode(request, content.getvalue())
        handler.send_response(status)
        for name, value in ({"Content-Length": str(len(page))} | headers).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(page)

    def matches(self, request: _Request) -> Table:
        """All pairs within the radius like the service: distance, columns sent, columns of the source."""
        asked = request.positions
        here, there = _sky(asked["alerce_ra"], asked["alerce_dec"]), _sky(self.sources["ra"], self.sources["dec"])
        near = here[:, None].separation(there[None, :]).arcsec
        row, source = np.nonzero(near <= float(request.fields["distMaxArcsec"]))
        pairs = asked[row]
        pairs.add_column(Column(near[row, source].round(6), "angDist", unit="arcsec"), index=0)
        for name in self.sources.colnames:
            pairs[name] = self.sources[name][source]
        return pairs


def _request(content_type: str, body: bytes) -> _Request:
    message = BytesParser().parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    parts = {
        p.get_param("name", header="content-disposition"): p.get_payload(decode=True) for p in message.get_payload()
    }
    table = Table.read(parts.pop("cat1").decode(), format="ascii.csv")
    return _Request({name: value.decode() for name, value in parts.items()}, table)


def _sky(ra: Any, dec: Any) -> SkyCoord:
    return SkyCoord(np.asarray(ra, float), np.asarray(dec, float), unit="deg")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait before a second attempt is longer than the time for all of them."""
    monkeypatch.setattr(cds, "_FIRST_WAIT_S", 1e6)
    monkeypatch.setattr(cds, "_LONGEST_WAIT_S", 1e6)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between attempts are short."""
    monkeypatch.setattr(cds, "_FIRST_WAIT_S", 1e-3)


@pytest.fixture
def sky() -> tuple[np.ndarray, np.ndarray]:
    """Positions all over, at the poles, at ra 0, and in a cluster."""
    rng = np.random.default_rng(8)
    ra = np.concatenate(
        [rng.uniform(0, 360, 30), [0.0, 0.00001, 359.99999, 12.0, 200.0], 150 + rng.normal(0, 2e-4, 30)]
    )
    dec = np.concatenate([rng.uniform(-80, 80, 30), [0.0, -1e-7, 5.0, 90.0, -89.99999], 20 + rng.normal(0, 2e-4, 30)])
    return ra, dec


@pytest.fixture
def service(sky: tuple[np.ndarray, np.ndarray]) -> Iterator[_Service]:
    """Most positions have one to three sources within a few arcsec, some of them two at the same distance."""
    rng = np.random.default_rng(9)
    at = rng.choice(len(sky[0]), 120)
    around = _sky(*sky)[at].directional_offset_by(
        rng.uniform(0, 360, 120) * u.deg, rng.exponential(0.7, 120) * u.arcsec
    )
    w4 = MaskedColumn(rng.normal(9, 1, 120).astype(np.float32), mask=rng.uniform(size=120) < 0.5)
    sources = Table(
        {
            "AllWISE": [f"J{k:06d}" for k in rng.permutation(120)],
            "ra": around.ra.deg,
            "dec": around.dec.deg,
            "W1mag": rng.normal(14, 1, 120).astype(np.float32),
            "W4mag": w4,
        }
    )
    again = sources[:20].copy()
    again["AllWISE"] = [f"{name}B" for name in again["AllWISE"]]
    running = _Service(vstack([again, sources]))
    yield running
    running.server.shutdown()
    running.server.server_close()


def _client(service: _Service, *, catalogs: Mapping[str, Catalog] | None = None, **more: Any) -> Cds:
    known = catalogs or {"allwise": _ALLWISE}
    return Cds({name: _TABLES[name] for name in known}, known, url=service.url, **({"pause_s": 0.0} | more))


_TABLES = {"allwise": "vizier:II/328/allwise", "wider": "vizier:II/328/allwise", "gaia": "I/355/gaiadr3"}


def _fails(service: _Service, sky: tuple[np.ndarray, np.ndarray], timeout_s: float = 30.0) -> str:
    with pytest.raises(CdsError) as error:
        _client(service, timeout_s=timeout_s).attempts(*sky)
    return str(error.value)


# A service that is well.


def test_nearest_sources_are_those_of_astropy(service: _Service, sky: tuple[np.ndarray, np.ndarray]) -> None:
    found = _client(service, batch=17).attempts(*sky)
    assert found.schema.equals(ATTEMPTS)
    assert found["row"].to_pylist() == list(range(len(sky[0])))
    distances = _sky(*sky)[:, None].separation(_sky(service.sources["ra"], service.sources["dec"])[None, :]).arcsec
    names = np.asarray(service.sources["AllWISE"])
    assert set(found["catalog"].to_pylist()) == {"allwise"}
    for row, near in zip(found.to_pylist(), distances, strict=True):
        if near.min() > 1:
            assert (row["source_id"], row["separation"], row["attributes"]) == (None, None, None)
            continue
        assert row["separation"] == pytest.approx(near.min(), abs=1e-6)
        assert row["source_id"] == min(names[near < near.min() + 1e-6])
        of = service.sources[names == row["source_id"]][0]
        attributes = dict(row["attributes"])
        assert np.float32(attributes["w1mpro"]) == of["W1mag"]
        assert ("w4mpro" in attributes) == (not np.ma.is_masked(of["W4mag"]))


def test_requests_are_as_the_service_documents_them(service: _Service, sky: tuple[np.ndarray, np.ndarray]) -> None:
    _client(service, batch=17).attempts(*sky)
    assert [len(request) for request in service.requests] == [17, 17, 17, 14]
    for request in service.requests:
        assert {name.lower(): value for name, value in request.fields.items()} == {
            "request": "xmatch",
            "distmaxarcsec": "1.0",
            "responseformat": "votable",
            "selection": "all",
            "cat2": "vizier:II/328/allwise",
            "colra1": "alerce_ra",
            "coldec1": "alerce_dec",
            "area": "allsky",
        }
    # Neighbours on the sky share a request: the cluster of 30 fits into three requests.
    assert sum(np.any(np.abs(r.positions["alerce_dec"] - 20) < 0.01) for r in service.requests) <= 3


def test_positions_that_are_nowhere_are_not_asked_for(service: _Service) -> None:
    found = _client(service).attempts([10.0, np.nan, 20.0], [5.0, 5.0, 91.0])
    assert [len(request) for request in service.requests] == [1]
    assert found["source_id"].to_pylist() == [None, None, None]
    assert _client(service).attempts([], []).equals(ATTEMPTS.empty_table())


def test_identifiers_of_64_bits_stay_whole(service: _Service, sky: tuple[np.ndarray, np.ndarray]) -> None:
    ids = 5_000_000_000_000_000_001 + np.arange(len(service.sources))
    service.sources["Source"] = ids
    gaia = _ALLWISE.model_copy(update={"id": ("source_id", "Source"), "radius": 2.0, "attributes": {}})
    found = _client(service, catalogs={"gaia": gaia}).attempts(*sky)
    assert service.requests[0].fields["cat2"] == "vizier:I/355/gaiadr3"
    assert {int(name) for name in found["source_id"].drop_null().to_pylist()} <= set(ids.tolist())
    assert found["source_id"].null_count < len(sky[0])


def test_a_source_that_comes_twice_is_one(service: _Service, sky: tuple[np.ndarray, np.ndarray]) -> None:
    once = _client(service).attempts(*sky)
    service.edit = lambda answer: vstack([answer, answer])
    assert _client(service).attempts(*sky).equals(once)


def test_shipped_settings_of_allwise_fit_the_service(service: _Service, sky: tuple[np.ndarray, np.ndarray]) -> None:
    # Columns of II/328/allwise as the service has them; the first and the W1 and W4 magnitudes are there already.
    for name in ("W2mag", "W3mag", *(f"e_W{band}mag" for band in (1, 2, 3, 4)), "Jmag", "Hmag", "Kmag"):
        service.sources[name] = np.arange(len(service.sources), dtype=np.float32)
    shipped = load(conf_dir() / "catalogs.toml", ZTF)["allwise"]
    found = _client(service, catalogs={"allwise": shipped}).attempts(*sky)
    assert found["source_id"].to_pylist() == _client(service).attempts(*sky)["source_id"].to_pylist()
    names = {name for row in found["attributes"].drop_null().to_pylist() for name, _ in row}
    assert names == set(shipped.attributes)


def test_a_table_needs_settings() -> None:
    with pytest.raises(CatalogSettingsError, match="gaia, wider"):
        Cds(_TABLES, {"allwise": _ALLWISE})


# A service that is not well.


@pytest.mark.usefixtures("soon")
def test_an_answer_after_failures_counts(service: _Service, sky: tuple[np.ndarray, np.ndarray]) -> None:
    well = _client(service).attempts(*sky)
    service.modes = [
        lambda *_: (503, _ERROR_PAGE, {}),
        lambda _, answer: (200, answer[: len(answer) // 2], {}),
        lambda *_: (400, _REFUSAL.format("Too many jobs are being processed, try later!").encode(), {}),
    ]
    service.requests.clear()
    assert _client(service).attempts(*sky).equals(well)
    assert len(service.requests) == 4


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        (lambda _, answer: (200, answer[:-200], {}), "not a complete VOTable"),
        (lambda _, answer: (200, answer[: len(answer) // 3], {"Content-Length": str(len(answer))}), "IncompleteRead"),
        (lambda _, answer: (200, b"", {}), "not a complete VOTable"),
        (lambda *_: (200, _ERROR_PAGE, {}), "504 Gateway Time-out The server is busy"),
        (lambda *_: (200, b"angDist,alerce_row,alerce_ra,alerce_dec\n0.1,0,", {}), "angDist,alerce_row"),
        (lambda *_: (503, _ERROR_PAGE, {}), "HTTP status 503: 504 Gateway Time-out"),
        (lambda *_: (404, _ERROR_PAGE, {}), "refused the request"),
        (lambda *_: (403, b"", {}), "banned"),
        (lambda *_: (400, _REFUSAL.format("Unknown table").encode(), {}), "Unknown table"),
        (lambda *_: (200, _REFUSAL.format("out of memory").encode(), {}), "not a complete VOTable"),
        (lambda _, answer: (200, _marked(answer), {}), "OVERFLOW"),
    ],
    ids=["cut off", "short of its length", "empty", "page", "CSV", "503", "404", "banned", "refused", "error", "limit"],
)
@pytest.mark.usefixtures("once")
def test_no_answer_is_never_no_match(
    service: _Service, sky: tuple[np.ndarray, np.ndarray], mode: _Mode, says: str
) -> None:
    service.default = mode
    message = _fails(service, sky)
    assert says in message
    assert message.startswith(f"allwise from {service.url}: ")


def _marked(answer: bytes) -> bytes:
    """An answer that the service cut at a whole row, as DALI 1.1 section 4.4.1 says it."""
    return answer.replace(b"</TABLE>", b'</TABLE><INFO name="QUERY_STATUS" value="OVERFLOW"/>')


def _without(name: str) -> Callable[[Table], Table]:
    return lambda answer: answer[[column for column in answer.colnames if column != name]]


def _with(name: str, value: Callable[[Table], Any]) -> Callable[[Table], Table]:
    def edit(answer: Table) -> Table:
        answer[name] = value(answer)
        return answer

    return edit


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (_without("AllWISE"), "no column designation or AllWISE"),
        (_without("angDist"), "no column angDist"),
        (_without("W4mag"), "no column w4mpro or W4mag"),
        (_without("alerce_row"), "no column alerce_row"),
        (_with("alerce_row", lambda a: a["alerce_row"] + 65), "not requested"),
        (_with("alerce_row", lambda a: -1 - a["alerce_row"]), "not requested"),
        (_with("alerce_row", lambda a: (a["alerce_row"] + 1) % 65), "other positions"),
        (_with("alerce_row", lambda a: ["x"] * len(a)), "text for numbers"),
        (_with("angDist", lambda a: a["angDist"] + 1.5), "outside 1.0 arcsec"),
        (_with("angDist", lambda a: a["angDist"] * np.nan), "outside 1.0 arcsec"),
    ],
)
def test_answers_to_something_else_are_errors_and_not_repeated(
    service: _Service, sky: tuple[np.ndarray, np.ndarray], edit: Callable[[Table], Table], says: str
) -> None:
    service.edit = edit
    assert says in _fails(service, sky)
    assert len(service.requests) == 1


@pytest.mark.parametrize("status", [400, 403])
def test_a_refusal_is_not_repeated(service: _Service, sky: tuple[np.ndarray, np.ndarray], status: int) -> None:
    service.default = lambda *_: (status, _REFUSAL.format("Unknown table").encode(), {})
    _fails(service, sky)
    assert len(service.requests) == 1


@pytest.mark.usefixtures("once")
def test_nobody_at_home() -> None:
    url = f"http://127.0.0.1:{free_port()}/xmatch/api/v1/sync"
    with pytest.raises(CdsError, match="refused"):
        Cds(_TABLES, dict.fromkeys(_TABLES, _ALLWISE), url=url, pause_s=0).attempts([10.0], [20.0])


@pytest.mark.parametrize("trickle", [False, True], ids=["silent", "a byte now and then"])
def test_a_slow_answer_is_given_up(service: _Service, sky: tuple[np.ndarray, np.ndarray], trickle: bool) -> None:
    over = threading.Event()

    def slow(handler: BaseHTTPRequestHandler) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        if trickle:
            handler.send_response(200)
            handler.end_headers()
        while not over.wait(0.05):
            if trickle:
                handler.wfile.write(b" ")

    service.answer = slow  # type: ignore[method-assign]
    try:
        message = _fails(service, sky, timeout_s=0.3)
        assert "no complete answer" in message or "incomplete after the time limit" in message
    finally:
        over.set()


def test_what_was_answered_is_not_asked_again(service: _Service, sky: tuple[np.ndarray, np.ndarray]) -> None:
    catalogs = {"allwise": _ALLWISE, "wider": _ALLWISE.model_copy(update={"radius": 3.0})}
    client = _client(service, catalogs=catalogs, batch=40)
    service.modes = [_good, lambda *_: (403, b"", {})]
    with pytest.raises(CdsError, match="wider"):
        client.attempts(*sky)
    service.requests.clear()
    found = client.attempts(*sky)
    assert [(r.fields["distMaxArcsec"], len(r)) for r in service.requests] == [("3.0", 40), ("1.0", 25), ("3.0", 25)]
    assert found.equals(_client(service, catalogs=catalogs).attempts(*sky))


def test_memory_is_bounded(service: _Service, sky: tuple[np.ndarray, np.ndarray]) -> None:
    client = _client(service, remembered=10)
    first = client.attempts(*sky)
    service.requests.clear()
    assert client.attempts(*sky).equals(first)
    assert [len(r) for r in service.requests] == [55]


# As a command about the objects of a lake.


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as done:
        main(["crossmatch", *arguments])
    captured = capsys.readouterr()
    assert isinstance(done.value.code, int)
    return done.value.code, " ".join((captured.out + captured.err).split())


@pytest.fixture
def filled(
    service: _Service, sky: tuple[np.ndarray, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """A lake with an object at each position, and settings that name the service."""
    path = str(tmp_path / "lake")
    write.create(path, 4)
    schema = TABLES["objects"].arrow
    index = healpix(*sky)
    known = {"meanra": sky[0], "meandec": sky[1], "healpix29": index, "pixel": parent(index, 4)}
    known |= {"oid": [f"ZTF{k}" for k in range(len(sky[0]))], "survey": ["ztf"] * len(sky[0])}
    nothing = {pa.string(): "", pa.bool_(): False}
    values = [known.get(f.name, [None if f.nullable else nothing.get(f.type, 0)] * len(sky[0])) for f in schema]
    rows = pa.table([pa.array(v, f.type) for v, f in zip(values, schema, strict=True)], schema=schema)
    write.commit(path, "objects", DeltaTable(f"{path}/objects").version(), write.append(path, "objects", rows))
    for name in ("W2mag", "W3mag", *(f"e_W{band}mag" for band in (1, 2, 3, 4)), "Jmag", "Hmag", "Kmag"):
        service.sources[name] = np.arange(len(service.sources), dtype=np.float32)
    monkeypatch.setenv("ALERCE_LAKE__PATH", path)
    monkeypatch.setenv("ALERCE_CROSSMATCH__CDS_URL", service.url)
    monkeypatch.setenv("ALERCE_CROSSMATCH__CDS_TIMEOUT_S", "2")
    monkeypatch.setattr(cli, "_REQUEST", 40)
    return path


@pytest.mark.usefixtures("once")
def test_the_command_asks_about_what_lacks_and_keeps_what_was_answered(
    service: _Service, sky: tuple[np.ndarray, np.ndarray], filled: str, capsys: pytest.CaptureFixture[str]
) -> None:
    service.modes = [_good, lambda *_: (503, _ERROR_PAGE, {})]
    code, said = _run(capsys, "--cds")
    assert code == 2
    assert f"error: allwise from {service.url}: " in said
    assert "504 Gateway Time-out" in said
    assert "40 objects have their rows" in said
    assert len(lakes.open(filled).table("xmatch").collect()) == 40

    code, said = _run(capsys, "allwise", "--cds")
    assert (code, [len(request) for request in service.requests]) == (0, [40, 25, 25])
    rows = lakes.open(filled).table("xmatch").collect().sort(pl.col("oid").str.slice(3).cast(int))
    near = _sky(*sky)[:, None].separation(_sky(service.sources["ra"], service.sources["dec"])[None, :]).arcsec.min(1)
    assert rows["oid"].to_list() == [f"ZTF{k}" for k in range(65)]
    expected = [None if apart > 1 else pytest.approx(apart, abs=1e-6) for apart in near]
    assert rows["separation"].to_list() == expected
    assert "allwise: 25 objects" in said

    assert _run(capsys, "--cds")[0] == 0
    assert len(service.requests) == 3


def test_the_command_without_the_service_matches_with_what_is_imported(
    service: _Service,
    sky: tuple[np.ndarray, np.ndarray],
    filled: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "allwise.csv"
    service.sources.write(file, format="ascii.csv")
    with pytest.raises(SystemExit) as done:
        main(["catalog", "import", "allwise", str(file)])
    assert done.value.code == 0
    near = _sky(*sky)[:, None].separation(_sky(service.sources["ra"], service.sources["dec"])[None, :]).arcsec.min(1)
    code, said = _run(capsys)
    assert code == 0
    assert f"allwise: 65 objects, {(near <= 1).sum()} matched" in said
    rows = lakes.open(filled).table("xmatch").collect().sort(pl.col("oid").str.slice(3).cast(int))
    expected = [None if apart > 1 else pytest.approx(apart, abs=1e-9) for apart in near]
    assert rows["separation"].to_list() == expected
    assert "allwise: 0 objects" in _run(capsys)[1]
    assert "allwise: 65 objects" in _run(capsys, "--again")[1]
    assert service.requests == []


def test_what_the_command_cannot_ask_is_said(filled: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (("sdss",), "crossmatch.cds_tables has no sdss; there are allwise"),
        (("--radius", "2"), "--cds asks about the objects of the lake"),
        (("--csv", __file__), "--cds asks about the objects of the lake"),
    ):
        code, text = _run(capsys, "--cds", *arguments)
        assert code == 2
        assert said in text


# In the background.


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _until(condition: Callable[[], bool]) -> None:
    """Wait for another thread; the time limit of the test is that of pytest."""
    while not condition():
        time.sleep(0.005)


def _all(asynchronous: Asynchronous, count: int) -> pa.Table:
    tables = [FINISHED.empty_table()]
    _until(lambda: tables.append(asynchronous.collect()) or sum(len(t) for t in tables) >= count)  # type: ignore[func-returns-value]
    return pa.concat_tables(tables)


def test_results_come_later_and_are_the_same(service: _Service, sky: tuple[np.ndarray, np.ndarray]) -> None:
    asynchronous = Asynchronous(_client(service, batch=20))
    oids = [f"ZTF{k}" for k in range(65)]
    assert asynchronous.submit(oids, *sky) == 65
    found = pl.DataFrame(_all(asynchronous, 65)).sort("oid")
    expected = pl.DataFrame(_client(service).attempts(*sky)).with_columns(
        pl.Series("oid", oids), pl.Series("ra", sky[0]), pl.Series("dec", sky[1])
    )
    assert found.equals(expected.select(found.columns).sort("oid"))
    assert asynchronous.alarm is None
    asynchronous.close()


def test_a_service_that_hangs_delays_nobody(service: _Service, sky: tuple[np.ndarray, np.ndarray]) -> None:
    hanging, release = threading.Event(), threading.Event()

    def hang(_: _Request, answer: bytes) -> tuple[int, bytes, dict[str, str]]:
        hanging.set()
        release.wait()
        return 200, answer, {}

    service.modes = [hang]
    asynchronous = Asynchronous(_client(service), room=50)
    oids = [f"ZTF{k}" for k in range(65)]
    assert asynchronous.submit(oids[:10], sky[0][:10], sky[1][:10]) == 10
    hanging.wait()
    # Known objects are skipped, the room is not exceeded, and no call waits for the answer.
    assert asynchronous.submit(oids, *sky) == 40
    assert asynchronous.submit(oids, *sky) == 0
    assert asynchronous.collect().num_rows == 0
    release.set()
    found = _all(asynchronous, 50)
    assert sorted(found["oid"].to_pylist()) == sorted(oids[:50])
    assert asynchronous.submit(oids[50:], sky[0][50:], sky[1][50:]) == 15
    assert sorted(_all(asynchronous, 15)["oid"].to_pylist()) == sorted(oids[50:])
    asynchronous.close()


@pytest.mark.usefixtures("once")
def test_a_service_that_is_down_is_probed_at_growing_intervals(
    service: _Service, sky: tuple[np.ndarray, np.ndarray]
) -> None:
    clock = _Clock()
    service.default = lambda *_: (503, _ERROR_PAGE, {})
    asynchronous = Asynchronous(_client(service, batch=10), clock=clock)
    oids = [f"ZTF{k}" for k in range(65)]
    assert asynchronous.submit(oids, *sky) == 65
    for failures, wait in enumerate((30, 60, 120, 240, 480, 960, 1920, 3600), 1):
        _until(lambda wait=wait: f"asked again in {wait} s" in (asynchronous.alarm or ""))  # type: ignore[misc]
        assert "HTTP status 503" in (asynchronous.alarm or "")
        assert len(service.requests) == failures
        clock.now += 0.99 * wait
        assert asynchronous.submit(oids, *sky) == 0
        clock.now += 0.02 * wait
        if wait < 3600:
            assert asynchronous.submit(oids, *sky) == 10
    assert asynchronous.collect().num_rows == 0
    service.default = _good
    assert asynchronous.submit(oids, *sky) == 10
    assert _all(asynchronous, 10).num_rows == 10
    assert asynchronous.alarm is None
    assert asynchronous.submit(oids, *sky) == 65
    asynchronous.close()


class _NoPackets:
    """A batch of the stream without alerts."""

    def select(self, *_: str) -> _NoPackets:
        return self

    def mapInArrow(self, *_: Any) -> _NoPackets:
        return self

    def toArrow(self) -> pa.Table:
        return PIECES.empty_table()


@pytest.mark.usefixtures("once")
def test_the_stream_goes_on_and_objects_are_asked_for_again(service: _Service, filled: str) -> None:
    hanging, release = threading.Event(), threading.Event()

    def hang(_: _Request, answer: bytes) -> tuple[int, bytes, dict[str, str]]:
        hanging.set()
        release.wait()
        return 200, answer[: len(answer) // 2], {}

    service.default = hang
    clock = _Clock()
    shipped = {"allwise": load(conf_dir() / "catalogs.toml", ZTF)["allwise"]}
    asynchronous = Asynchronous(_client(service, catalogs=shipped), clock=clock)
    query = Crossmatch(None, filled, "ztf", lambda: None, asynchronous, ("allwise",))  # type: ignore[arg-type]

    def batch() -> dict[str, int]:
        return query.process(_NoPackets()).rows  # type: ignore[arg-type]

    # It submits the objects of the lake, and goes on while the service does not answer.
    _until(lambda: batch() != {} or hanging.is_set())
    assert batch() == {}
    # Half an answer is an error.
    release.set()
    _until(lambda: "not a complete VOTable" in (asynchronous.alarm or ""))
    assert batch() == {}
    assert lakes.open(filled).table("xmatch").collect().is_empty()
    # Later the service works, and the objects are still due.
    service.default = _good
    clock.now += 31
    stored: list[int] = []
    _until(lambda: stored.append(batch().get("allwise", 0)) or sum(stored) == 65)  # type: ignore[func-returns-value]
    assert asynchronous.alarm is None
    assert lakes.open(filled).table("xmatch").collect()["oid"].n_unique() == 65
    asynchronous.close()
