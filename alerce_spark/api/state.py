"""State that the routes of one server share: index, light curves, cached replies, Avro repository."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from threading import Lock

import polars as pl

from alerce_spark.api.errors import NotFound
from alerce_spark.api.jobs import Jobs
from alerce_spark.api.metrics import LakeAndIndex, Metrics
from alerce_spark.api.tap.engine import Engine
from alerce_spark.api.tap.jobs import Jobs as Queries
from alerce_spark.config import Settings
from alerce_spark.repository import Repository, open_repository
from alerce_spark.serving import curves
from alerce_spark.serving.curves import Curves
from alerce_spark.serving.query import Index
from alerce_spark.serving.replies import Replies
from alerce_spark.serving.walks import Walks
from alerce_spark.tns.remote import Remote
from alerce_spark.tns.server import Tns

#: Requests answered at the same time; others wait.
THREADS = 40


class State:
    """Opened when first needed: a server may start before its index is built and while the lake is unreachable."""

    def __init__(self, settings: Settings) -> None:
        services = settings.services
        self.settings = settings
        self._curves = Curves(settings.lake.path)
        self._replies = Replies(settings.lake.path, services.kept_mb << 20, services.poll_s)
        self._file = settings.index
        self._index: Index | None = None
        self._opening = Lock()
        self.walks = Walks()
        self.jobs = Jobs()
        self.tap = Engine(settings.lake.path, services)
        self.tap_jobs = Queries(self.tap, services.tap_queries, services.tap_job_timeout_s)
        self.tap_timeout_s = services.tap_timeout_s
        self._figures = LakeAndIndex(settings.lake.path, lambda: self.index)
        of_tap = (self.tap.running, self.tap.waiting, self.tap.ended, self.tap_jobs.queued)
        self.metrics = Metrics([self._replies.asked, *of_tap, self._figures])
        #: Catalogues are read by one thread at a time.
        self.catalogs = Lock()

    @property
    def index(self) -> Index:
        """The index. Raises IndexFault where it is missing."""
        with self._opening:
            if self._index is None:
                limit = self.settings.services.query_timeout_s
                self._index = Index(self._file, connections=THREADS, limit_s=limit)
            return self._index

    @property
    def lake(self) -> str:
        """Path of the lake."""
        return self.settings.lake.path

    @cached_property
    def order(self) -> int:
        """HEALPix order of the lake's partitions."""
        return self.index.healpix_order

    @cached_property
    def repository(self) -> Repository:
        """The Avro repository."""
        return open_repository(self.settings.archive)

    @cached_property
    def tns(self) -> Tns:
        """The bot at TNS; users see its limits as errors. Raises ConfigError where it is not set."""
        return Tns(self.settings.tns.model_copy(update={"patience_s": 0.0}))

    @cached_property
    def tns_searches(self) -> Remote:
        """Searches at TNS. Raises ConfigError where no bot is set."""
        return Remote(self.tns)

    def close(self) -> None:
        """Close what is open."""
        self._figures.close()
        self._curves.close()
        self.jobs.close()
        self.tap_jobs.close()
        self.tap.close()
        if self._index is not None:
            self._index.close()

    def rows(self, oid: str, columns: Mapping[str, Sequence[str]]) -> dict[str, pl.DataFrame] | None:
        """Rows of an object; None for an unknown one."""
        at = self.index.place(oid)
        return None if at is None else self.rows_of({oid: at}, columns)

    def rows_of(
        self, places: Mapping[str, tuple[float, float]], columns: Mapping[str, Sequence[str]]
    ) -> dict[str, pl.DataFrame]:
        """Rows of objects at these positions [deg]."""
        ra, dec = zip(*places.values(), strict=True)
        return self._curves.read(list(places), curves.place(ra, dec, self.order), columns)

    def kept(
        self,
        name: str,
        oid: str,
        columns: Mapping[str, Sequence[str]],
        make: Callable[[dict[str, pl.DataFrame]], bytes],
    ) -> bytes:
        """A reply made of rows of an object, made again when they may have changed. Raises NotFound."""
        at = self.index.place(oid)
        if at is None:
            raise NotFound(f"no object {oid}")
        where = curves.place(*at, self.order)
        return self._replies.get(
            f"{name} {oid}", tuple(columns), where, lambda: make(self._curves.read([oid], where, columns))
        )
