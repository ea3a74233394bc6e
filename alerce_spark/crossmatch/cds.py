"""The X-Match service of the CDS (Boch, Pineau & Derriere 2012, ASP 461, 291): sources near positions, by HTTP.

One request holds up to a thousand positions that are close on the sky, and only one request runs at a time, since the
CDS bans clients that send many. An answer counts only if it is complete and about the requested positions: anything
else is an error and never "no match". Answers are VOTables, which show if they were cut off; a CSV would not.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import requests
import urllib3
from astropy import units
from astropy.io import votable
from astropy.table import Table
from astroquery.exceptions import InvalidQueryError
from numpy.typing import ArrayLike, NDArray
from tenacity import (
    Retrying,
    before_sleep_log,
    retry_if_exception_type,
    stop_before_delay,
    wait_exponential,
    wait_random,
)

from alerce_spark import sky
from alerce_spark.crossmatch.catalogs import Catalog, CatalogSettingsError
from alerce_spark.crossmatch.rows import ATTEMPTS, CdsError, attempts
from alerce_spark.tablefiles import find

with contextlib.redirect_stdout(io.StringIO()):  # it prints a hint about an optional package that we do not need
    from astroquery.xmatch import XMatchClass

log = logging.getLogger(__name__)

#: Columns of the positions in a request; the answer repeats them.
_ROW, _RA, _DEC = "alerce_row", "alerce_ra", "alerce_dec"
_DISTANCE = "angDist"
_ID = "source_id"
_POSITION_DIGITS = 10  # of degrees: a third of a microarcsecond
_SAME_POSITION = 1e-6  # deg, 3.6 mas: tolerance for rounding by the service
_ROUNDING = 1e-3  # arcsec
_LARGEST_ANSWER = 64 << 20  # bytes; a thousand positions with one AllWISE source each make 0.7 MB
#: Waits [s] between attempts of one request: they double from the first to the second; a random part is added.
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 20.0
#: No attempt begins after this fraction of the time for a request: it would only time out.
_LAST_BEGINS = 0.8
#: HTTP statuses worth a retry, besides 500 and above, and the text of the CDS in such a case.
_PASSING_STATUS = (408, 425, 429)
_PASSING_REASON = "try later"
#: Waits [s] before a failed service is asked again: the first, doubled each time up to the second.
_FIRST_PROBE_S, _LONGEST_PROBE_S = 30.0, 3600.0

#: Rows that `Asynchronous` returns: an attempt with its object and position.
FINISHED = pa.schema(
    [
        pa.field("oid", pa.string(), nullable=False),
        pa.field("ra", pa.float64(), nullable=False, metadata={"unit": "deg"}),
        pa.field("dec", pa.float64(), nullable=False, metadata={"unit": "deg"}),
        *(field for field in ATTEMPTS if field.name != "row"),
    ]
)


class _PassingError(CdsError):
    """The same request may succeed later."""


#: A cached source: source_id, separation, attributes; all None for "no source".
_Source = tuple[str | None, float | None, list[tuple[str, str]] | None]
_NOTHING: _Source = (None, None, None)


class Cds:
    """Client of the service; safe to use from several threads, which then wait for each other.

    tables: the VizieR table of each catalogue to query, by its name in `catalogs`, which hold radius and columns.
    timeout_s: longest time of one request with its retries. url: None for that of the CDS. batch: positions per
    request. pause_s: shortest time between the starts of two requests. remembered: number of cached answers about
    single positions, the most recently used (about 2 kB each). They serve objects requested again, after another
    catalogue failed or rows were lost before they were stored. A stream requests each object once and in a different
    group, so caching whole answers on disk would not help. Raises CatalogSettingsError for a table without settings.
    """

    def __init__(
        self,
        tables: Mapping[str, str],
        catalogs: Mapping[str, Catalog],
        *,
        timeout_s: float = 60.0,
        url: str | None = None,
        batch: int = 1000,
        pause_s: float = 1.0,
        remembered: int = 20_000,
    ) -> None:
        if unknown := sorted(set(tables) - set(catalogs)):
            raise CatalogSettingsError(f"no settings for the CDS catalogues {', '.join(unknown)}")
        self.batch = batch
        self._tables = {name: (table, catalogs[name]) for name, table in tables.items()}
        self._timeout_s, self._pause_s, self._most = timeout_s, pause_s, remembered
        self._service = _Service()
        if url is not None:
            self._service.URL = url
        self._known: OrderedDict[tuple[str, float, float], _Source] = OrderedDict()
        self._last = -float("inf")
        self._one_at_a_time = threading.Lock()

    def attempts(self, ra: ArrayLike, dec: ArrayLike) -> pa.Table:
        """Nearest source of every catalogue to each position [deg]: one row (schema ATTEMPTS) for each.

        Of sources at the same distance the one with the smaller id counts. `separation` comes from the service, which
        moves sources with known proper motions to J2000. Positions outside the sphere have no source. Each request
        takes at most `timeout_s`. Raises CdsError; answers received before the error stay cached.
        """
        ra, dec = np.asarray(ra, float), np.asarray(dec, float)
        sources = {name: [_NOTHING] * len(ra) for name in self._tables}
        for near in batches(ra, dec, self.batch):
            rows = near[_on_sphere(ra[near], dec[near])]
            for name in self._tables:
                for row, source in zip(rows.tolist(), self._sources(name, ra[rows] % 360, dec[rows]), strict=True):
                    sources[name][row] = source
        tables = [_as_table(name, self._tables[name][1].radius, found) for name, found in sources.items()]
        return pa.concat_tables([ATTEMPTS.empty_table(), *tables])

    def _sources(self, name: str, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> list[_Source]:
        """Cached sources, and those of one request about the other positions."""
        keys = [(name, *position) for position in zip(ra.tolist(), dec.tolist(), strict=True)]
        with self._one_at_a_time:
            found = {key: self._known[key] for key in keys if key in self._known}
            new = np.array([row for row, key in enumerate(keys) if key not in found], np.int64)
            if len(new):
                answer = self._repeated(name, ra[new], dec[new])
                found |= {keys[row]: source for row, source in zip(new.tolist(), answer, strict=True)}
            for key in keys:
                self._known[key] = found[key]
                self._known.move_to_end(key)
            while len(self._known) > self._most:
                self._known.popitem(last=False)
        return [found[key] for key in keys]

    def _repeated(self, name: str, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> list[_Source]:
        repeated = Retrying(
            retry=retry_if_exception_type(_PassingError),
            wait=wait_exponential(_FIRST_WAIT_S, max=_LONGEST_WAIT_S) + wait_random(0, _FIRST_WAIT_S),
            stop=stop_before_delay(_LAST_BEGINS * self._timeout_s),
            before_sleep=before_sleep_log(log, logging.INFO),
            reraise=True,
        )
        return repeated(self._asked, name, ra, dec, time.monotonic() + self._timeout_s)

    def _asked(self, name: str, ra: NDArray[np.float64], dec: NDArray[np.float64], deadline: float) -> list[_Source]:
        table, catalog = self._tables[name]
        time.sleep(max(0.0, self._last + self._pause_s - time.monotonic()))
        self._last = time.monotonic()
        try:
            content = self._service.content(table, catalog.radius, ra, dec, deadline)
            return _nearest(_parsed(content), name, catalog, ra, dec)
        except CdsError as error:
            raise type(error)(f"{name} from {self._service.URL}: {error}") from error


class _Service(XMatchClass):
    """astroquery's client with a limit on time and size, without its cache and its list of tables.

    The cache would keep error pages and requests that are never repeated on disk; the list would cost one more request
    each time, and the service itself rejects unknown tables.
    """

    _deadline = float("inf")

    def content(
        self, table: str, radius: float, ra: NDArray[np.float64], dec: NDArray[np.float64], deadline: float
    ) -> bytes:
        """The bytes of the answer. radius [arcsec]; `deadline` is a time of the monotonic clock. Raises CdsError."""
        positions = Table({_ROW: np.arange(len(ra)), _RA: ra, _DEC: dec})
        positions[_RA].format = positions[_DEC].format = f".{_POSITION_DIGITS}f"
        self._deadline = deadline
        self.TIMEOUT = max(deadline - time.monotonic(), 1e-3)
        try:
            response = self.query_async(
                positions,
                table,
                radius * units.arcsec,
                colRA1=_RA,
                colDec1=_DEC,
                cache=False,
                selection="all",
            )
            return bytes(response.content)
        except CdsError:
            raise
        except InvalidQueryError as error:
            kind = _PassingError if _PASSING_REASON in str(error) else CdsError
            raise kind(f"refused the request: {_excerpt(str(error))}") from error
        except requests.HTTPError as error:
            raise CdsError(f"refused the request: {_excerpt(str(error))}") from error
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise _PassingError(f"no complete answer: {type(error).__name__}: {error}") from error
        except Exception as error:
            # astroquery takes the page of an HTTP error for a VOTable, and its parser may raise anything on others.
            raise CdsError(f"refused the request with an answer that cannot be read: {error}") from error

    def is_table_available(self, table_id: object) -> bool:
        """Whether the argument is the name of a table rather than positions."""
        return isinstance(table_id, str)

    def _request(self, method: str, url: str, **options: Any) -> requests.Response:
        response = super()._request(method, url, stream=True, **options)
        with response:
            body = self._body(response)
        if response.status_code >= 500 or response.status_code in _PASSING_STATUS:
            raise _PassingError(f"HTTP status {response.status_code}: {_excerpt(body.decode(errors='replace'))}")
        response.raw = io.BytesIO(body)
        return response

    def _body(self, response: requests.Response) -> bytes:
        """All bytes until the deadline; the library's time limit applies to each wait for data, not to the total."""
        clock = threading.Timer(max(self._deadline - time.monotonic(), 0), _shut, [response.raw])
        clock.start()
        body = bytearray()
        try:
            for chunk in response.raw.stream(1 << 16, decode_content=True):
                body += chunk
                if len(body) > _LARGEST_ANSWER:
                    raise CdsError(f"the answer is longer than {_LARGEST_ANSWER} bytes: choose a smaller radius")
        finally:
            clock.cancel()
        if time.monotonic() >= self._deadline:
            raise _PassingError(f"the answer was incomplete after the time limit; {len(body)} bytes received")
        return bytes(body)


def _shut(raw: urllib3.HTTPResponse) -> None:
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # already closed
        raw.shutdown()


def batches(ra: NDArray[np.float64], dec: NDArray[np.float64], size: int) -> Iterator[NDArray[np.int64]]:
    """Rows of positions [deg], in groups of at most `size` that are close on the sky."""
    known = _on_sphere(ra, dec)
    order = np.argsort(sky.healpix(np.where(known, ra, 0.0), np.where(known, dec, 0.0)), kind="stable")
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _on_sphere(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.isfinite(ra) & (np.abs(dec) <= 90)


def _as_table(name: str, radius: float, sources: Sequence[_Source]) -> pa.Table:
    size = len(sources)
    columns = [[source[k] for source in sources] for k in range(3)]
    given = [np.arange(size), [name] * size, [radius] * size, *columns]
    arrays = [pa.array(values, field.type) for values, field in zip(given, ATTEMPTS, strict=True)]
    return pa.Table.from_arrays(arrays, schema=ATTEMPTS)


def _parsed(content: bytes) -> Table:
    """The one table of an answer. Raises CdsError if it is incomplete or marked as incomplete."""
    try:
        document = votable.parse(io.BytesIO(content))
        table = document.get_first_table()
        rows = table.to_table(use_names_over_ids=True)
    except Exception as error:
        # The parser may raise anything on what is no VOTable.
        shown = _excerpt(content.decode(errors="replace"))
        raise _PassingError(f"the answer is not a complete VOTable ({type(error).__name__}): {shown}") from error
    infos = [*document.infos, *(info for r in document.resources for info in r.infos), *table.infos]
    for info in infos:
        if info.name == "QUERY_STATUS" and info.value != "OK":
            message = f"{info.value} {_excerpt(info.content or '')}".strip()
            kind = _PassingError if _PASSING_REASON in message else CdsError
            raise kind(f"the answer is marked {message}: it is incomplete")
    return rows


def _nearest(
    answer: Table, name: str, catalog: Catalog, ra: NDArray[np.float64], dec: NDArray[np.float64]
) -> list[_Source]:
    """The source of each position in an answer, after checking that the answer is about these positions."""
    columns = _chosen(answer, catalog)
    try:
        row = np.asarray(columns[_ROW].cast(pa.int64()))
        asked, given, distance = (np.asarray(columns[column].cast(pa.float64())) for column in (_RA, _DEC, _DISTANCE))
    except pa.ArrowInvalid as error:
        raise CdsError(f"the answer has text for numbers: {error}") from error
    if not np.isin(row, np.arange(len(ra))).all():
        raise CdsError("the answer has rows about positions that were not requested")
    row = row.astype(np.int64)
    if not (np.abs(given - dec[row]) < _SAME_POSITION).all() or not (np.abs(asked - ra[row]) < _SAME_POSITION).all():
        raise CdsError("the answer is about other positions")
    if not ((distance >= 0) & (distance <= catalog.radius + _ROUNDING)).all():
        raise CdsError(f"the answer has sources outside {catalog.radius} arcsec")
    found = pl.DataFrame({"row": row, "separation": distance, "id": columns[_ID], "at": np.arange(len(row))})
    first = found.sort("row", "separation", "id", "at").unique("row", keep="first", maintain_order=True)
    at = first["at"].to_arrow()
    rows = attempts(
        first["row"].to_numpy(),
        name,
        catalog.radius,
        columns[_ID].take(at),
        first["separation"].to_numpy(),
        {attribute: columns[attribute].take(at) for attribute in catalog.attributes},
    )
    sources = [_NOTHING] * len(ra)
    for source in rows.to_pylist():
        sources[source["row"]] = (source["source_id"], source["separation"], source["attributes"])
    return sources


def _chosen(answer: Table, catalog: Catalog) -> dict[str, pa.Array]:
    """Columns that the service adds, the id under _ID, and attributes by our names. Raises CdsError for missing ones.

    None may be missing: a stored row without an attribute would never be requested again.
    """
    spellings = {name: (name,) for name in (_ROW, _RA, _DEC, _DISTANCE)} | {_ID: catalog.id}
    spellings |= {name: attribute.names for name, attribute in catalog.attributes.items()}
    found = {name: find(answer.colnames, names) for name, names in spellings.items()}
    missing = [" or ".join(spellings[name]) for name, column in found.items() if column is None]
    if missing:
        raise CdsError(f"the answer has no column {', '.join(missing)}; there are {', '.join(answer.colnames)}")
    return {name: _arrow(answer[column]) for name, column in found.items()}


def _arrow(column: Any) -> pa.Array:
    """A column of a VOTable; masked values, NaN and empty texts are null."""
    values, mask = np.ma.getdata(column), np.ma.getmaskarray(column)
    if values.dtype.kind in "OSU":
        texts = [str(value) for value in values]
        return pa.array(texts, pa.string(), mask=mask | (np.array(texts, object) == ""))
    return pa.array(values.astype(values.dtype.newbyteorder("=")), mask=mask, from_pandas=True)


def _excerpt(text: str, length: int = 200) -> str:
    """The beginning of a page without its markup."""
    return " ".join(re.sub(r"<[^>]*>?", " ", text).split())[:length]


class Asynchronous:
    """Asks the service in a separate thread, so that the caller does not wait.

    The caller can submit objects and fetch finished attempts at any time. Objects that are rejected or fail are
    dropped: the caller finds them again, since they have no row. After a failure no objects are accepted until a wait
    is over, then one request's worth as a probe; each failure doubles the wait and the first success ends it.

    room: most objects that are waiting, requested, or finished and not yet fetched.
    """

    def __init__(self, cds: Cds, *, room: int = 20_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._cds, self._room, self._clock = cds, room, clock
        self._changed = threading.Condition()
        self._queue: dict[str, tuple[float, float]] = {}
        self._in_hand: set[str] = set()
        self._finished: list[pa.Table] = []
        self._done: set[str] = set()
        self._alarm: str | None = None
        self._wait, self._not_before = 0.0, -float("inf")
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="cds", daemon=True)
        self._thread.start()

    @property
    def alarm(self) -> str | None:
        """Reason why the service is not in use now; None if it is in use."""
        return self._alarm

    def submit(self, oids: Sequence[str], ra: ArrayLike, dec: ArrayLike) -> int:
        """Submit objects at positions [deg]; returns how many were accepted. Never waits for the service.

        Skips objects that are already submitted.
        """
        with self._changed:
            room = self._free()
            before = len(self._queue)
            for oid, *place in zip(oids, np.asarray(ra).tolist(), np.asarray(dec).tolist(), strict=True):
                if len(self._queue) - before >= room:
                    break
                if oid not in self._in_hand and oid not in self._done:
                    self._queue.setdefault(oid, (place[0], place[1]))
            self._changed.notify()
            return len(self._queue) - before

    def collect(self) -> pa.Table:
        """Attempts finished since the last call (schema FINISHED). Never waits for the service."""
        with self._changed:
            tables, self._finished, self._done = self._finished, [], set()
        return pa.concat_tables([FINISHED.empty_table(), *tables])

    def close(self) -> None:
        """End the thread after the current request; waiting objects are dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _free(self) -> int:
        busy = len(self._queue) + len(self._in_hand)
        free = self._room - busy - len(self._done)
        if not self._wait:
            return max(free, 0)
        probe = not busy and self._clock() >= self._not_before
        return min(free, self._cds.batch) if probe else 0

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if self._closed:
                    return
                batch, self._queue = self._queue, {}
                self._in_hand = set(batch)
            self._ask(list(batch), np.array(list(batch.values())))

    def _ask(self, oids: list[str], places: NDArray[np.float64]) -> None:
        ra, dec = places.T
        try:
            for batch in batches(ra, dec, self._cds.batch):
                found = self._cds.attempts(ra[batch], dec[batch])
                self._succeeded(_finished(found, [oids[k] for k in batch], ra[batch], dec[batch]))
                if self._closed:
                    return
        except Exception as error:  # noqa: BLE001  (any error is reported, and the thread goes on)
            self._failed(str(error) if isinstance(error, CdsError) else f"{type(error).__name__}: {error}")

    def _succeeded(self, rows: pa.Table) -> None:
        with self._changed:
            oids = set(rows["oid"].to_pylist())
            self._finished.append(rows)
            self._done |= oids
            self._in_hand -= oids
            self._alarm, self._wait = None, 0.0

    def _failed(self, reason: str) -> None:
        with self._changed:
            self._wait = min(max(2 * self._wait, _FIRST_PROBE_S), _LONGEST_PROBE_S)
            self._not_before = self._clock() + self._wait
            self._alarm = f"CDS X-Match: {reason}; asked again in {self._wait:.0f} s"
            log.warning("%s", self._alarm)
            self._queue.clear()
            self._in_hand.clear()


def _finished(found: pa.Table, oids: Sequence[str], ra: NDArray[np.float64], dec: NDArray[np.float64]) -> pa.Table:
    row = found["row"]
    columns = [pa.chunked_array([pa.array(values)]).take(row) for values in (oids, ra, dec)]
    return pa.Table.from_arrays([*columns, *found.drop(["row"]).columns], schema=FINISHED)
