"""Functions on Spark's Python workers, without the garbage collection that a worker makes after each task.

Spark's daemon collects after every task (pyspark/daemon.py), which walks through all objects of all modules that a
worker has loaded: 160 to 230 ms of a core for ours, more than most tasks take. Objects that survived such a collection
are set aside here (gc.freeze), so that the next one examines new objects only: 0.02 ms.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql.types import StructType

from alerce_spark.errors import InputError

Batches = Iterator[pa.RecordBatch]

#: Bytes that `together` joins: a thousand packets of ZTF with their stamps.
_TOGETHER_BYTES = 64 << 20

#: Fewest survivors that are set aside: a walk through fewer takes a few milliseconds.
_MANY = 20_000


def map_in_workers(frame: DataFrame, function: Callable[[Batches], Batches], schema: str | StructType) -> DataFrame:
    """As `frame.mapInArrow(function, schema)`."""

    def run(batches: Batches) -> Batches:
        settle()
        return function(batches)

    return frame.mapInArrow(run, schema)


def input_error(error: Exception) -> InputError | None:
    """The InputError of a worker, extracted from Spark's error; None for other errors."""
    found = re.findall(r"^(?:alerce_spark\.[\w.]+\.)?(?:InputError|TableFileError): (.+)$", str(error), re.MULTILINE)
    return InputError(found[-1]) if found else None


def settle() -> None:
    """Set aside the survivors of a full collection, if they are many. Cycles among them are never collected."""
    if len(gc.get_objects(generation=2)) > _MANY:
        gc.freeze()


def together(batches: Batches) -> Batches:
    """The same rows in batches of 64 MiB and the rest, none empty: a look-up then opens each file once."""
    waiting: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        if not batch.num_rows:
            continue
        waiting.append(batch)
        size += batch.nbytes
        if size >= _TOGETHER_BYTES:
            yield pa.concat_batches(waiting)
            waiting, size = [], 0
    if waiting:
        yield pa.concat_batches(waiting)
