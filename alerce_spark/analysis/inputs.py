"""Tables of light curves that a user names: one file of any format, or a folder of Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from pyarrow import dataset

from alerce_spark import tablefiles
from alerce_spark.errors import InputError
from alerce_spark.features.io import checked
from alerce_spark.features.select import REQUIRED, REQUIRED_LIMITS

_REQUIRED = {"detections": REQUIRED, "non-detections": REQUIRED_LIMITS}
#: Optional columns that features use, in any of the three tables.
USED = (
    *(*tablefiles.OIDS, *REQUIRED, *REQUIRED_LIMITS, "candid", "has_stamp", "parent_candid", "isdiffpos"),
    *("magpsf_corr", "sigmapsf_corr_ext", "corrected", "ra", "dec", "rb", "sgscore1"),
    *("w1mpro", "w2mpro", "w3mpro", "w4mpro"),
)


def read(what: str, path: str) -> pa.Table:
    """The used columns of a table of `what`, checked. Raises InputError."""
    if Path(path).is_file():
        rows = tablefiles.read(path)
    else:
        with _blaming(what, path):
            folder = _folder(path)
            names = [tablefiles.find(folder.schema.names, [column]) for column in USED]
            rows = folder.to_table(columns=list({name: None for name in names if name is not None}))
    return checked(rows, _REQUIRED.get(what, ()), f"{what} {path}")


def count_rows(what: str, path: str) -> int:
    """Number of rows of a folder, from the footers of its files. Raises InputError."""
    with _blaming(what, path):
        return int(_folder(path).count_rows())


def _folder(path: str) -> dataset.Dataset:
    """Files of a folder as Spark selects them, with the partition columns from folder names."""
    return dataset.dataset(path, format="parquet", partitioning="hive")


@contextmanager
def _blaming(what: str, path: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"{what}: the folder {path} cannot be read as one Parquet table: {error}") from None
