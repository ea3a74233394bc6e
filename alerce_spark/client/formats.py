"""Answers in the formats that users ask for.

json, pandas, votable and csv are made from the server's JSON, as in ALeRCE's client. polars and arrow keep the types of
the tables, with ids as int64.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from alerce_spark.client.errors import FormatValidationError

FORMATS = ("pandas", "votable", "json", "csv", "polars", "arrow")
#: Formats made of Arrow.
TYPED = ("polars", "arrow")

Row = dict[str, Any]


def checked(form: str) -> str:
    """A format. Raises FormatValidationError."""
    if form.lower() not in FORMATS:
        raise FormatValidationError(
            f"there is no format {form!r}; there are {', '.join(FORMATS)}", data={"format": form}
        )
    return form.lower()


def of_rows(found: Row | Sequence[Row], form: str, index: str | None = None, sort: str | None = None) -> Any:
    """Rows, or one row, in a format; `index` and `sort` name columns of pandas."""
    if form == "json":
        return found
    rows = [found] if isinstance(found, dict) else list(found)
    if form == "votable":
        from astropy.table import Table

        return Table(rows)
    if form in TYPED:
        return _typed_rows(rows, form)
    return of_frame(_frame(rows), form, index, sort)


def of_frame(frame: Any, form: str, index: str | None, sort: str | None) -> Any:
    """A frame of pandas, sorted and indexed, or as CSV."""
    if form == "csv":
        return frame.to_csv(index=False)
    if sort:
        frame = frame.sort_values(sort)
    return frame.set_index(index) if index else frame


def _frame(rows: Sequence[Row]) -> Any:
    import pandas as pd

    return pd.DataFrame(rows)


def _typed_rows(rows: Sequence[Row], form: str) -> Any:
    import pyarrow as pa

    return of_arrow(pa.Table.from_pylist(rows), form)


def of_arrow(table: Any, form: str) -> Any:
    """A table of Arrow, or of polars."""
    if form == "arrow":
        return table
    import polars as pl

    return pl.from_arrow(table)


def arrow_of(contents: Sequence[bytes]) -> Any:
    """One table from streams with the same schema."""
    import pyarrow as pa

    return pa.concat_tables([pa.ipc.open_stream(content).read_all() for content in contents])


def catalog(name: str, columns: Mapping[str, Row], form: str) -> Any:
    """Sources of a catalogue: a table; with pandas a single source is a Series."""
    if form == "json":
        return dict(columns)
    from astropy.table import Column, Table

    table = Table()
    for field, told in columns.items():
        table.add_column(Column(told["values"] if "values" in told else [told["value"]], name=field))
        table[field].unit = told["units"] if "units" in told else told["unit"]
    table["cat_name"] = Column([f"catsHTM_{name}"], name="cat_name")
    if form == "votable":
        return table
    frame = table.to_pandas()
    if form == "pandas":
        if len(frame) == 1:
            frame = frame.iloc[0]
            frame.name = f"catsHTM_{name}"
        return frame
    if form == "csv":
        return frame.to_csv(index=False)
    import pyarrow as pa

    return of_arrow(pa.Table.from_pandas(frame, preserve_index=False), form)


def stamp(content: bytes, kind: str) -> Any:
    """The image of a gzipped FITS file, its kind in the header."""
    import gzip

    from astropy.io import fits

    hdu = fits.open(io.BytesIO(gzip.decompress(content)), ignore_missing_simple=True)[0]
    hdu.header["HIERARCH STAMP_TYPE"] = kind
    return hdu
