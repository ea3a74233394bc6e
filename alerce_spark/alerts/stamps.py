"""Stamps of an alert, three gzipped FITS images, to one float32 array: a fast gunzip and a minimal FITS reader.

A stamp is the primary image of a FITS file (Pence et al. 2010, A&A 524, A42), 63 × 63 pixels with the candidate in the
middle one. Near the border of the detector the survey cuts the stamp at the border, so it is smaller and its candidate
is not in the middle. This module pads every stamp to 63 × 63 pixels with the candidate in the middle. Pixels beyond
the border are NaN, and so are pixels without a value in the file (NaN, infinite, or at the limit of float32).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from isal import isal_zlib

from alerce_spark.surveys.survey import Survey

#: Pixels on a side, and the index of the pixel with the candidate.
SIDE = 63
CENTRE = SIDE // 2
#: Least pixels on a side: the candidate's pixel and those on its uncut side.
LEAST_SIDE = SIDE - CENTRE
NAMES = ("science", "template", "difference")
#: Most bytes of a stamp when inflated; 63 × 63 doubles need 34,560.
MAX_FITS = 1 << 20

#: The largest float32. Some templates of ZTF have its negative, not NaN, where they were not observed (3 of 416).
NO_VALUE = float(np.finfo(np.float32).max)

_BLOCK, _CARD = 2880, 80
_PIXELS = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}

Blob = bytes | memoryview
Column: TypeAlias = pa.Array | pa.ChunkedArray | Sequence[bytes | None]
Floats = npt.NDArray[np.float32]


class StampError(ValueError):
    """A stamp that is not an image; the message gives the reason."""


@dataclass(frozen=True)
class Stamps:
    """Stamps of n alerts.

    images: float32 (n, 3, 63, 63): science, template, difference; y, x as in the file; in DN. NaN where a pixel has no
    value, lies beyond the detector, or the alert has a reason. shape: int16 (n, 3, 2): rows and columns of each file,
    0 where it cannot be read. reason: object (n,): None, or the fault of the alert's stamps.
    """

    images: Floats
    shape: npt.NDArray[np.int16]
    reason: npt.NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.reason)


def of(alerts: pa.Table, survey: Survey) -> Stamps:
    """Stamps of decoded alerts (`avro.decode(…, stamps=True)`), in their order. Raises KeyError if columns are missing.

    See `decode`.
    """
    names, position = survey.cutouts.names, survey.cutouts.position
    x, y = (np.nan, np.nan) if position is None else (alerts[name].to_numpy() for name in position)
    return decode(*(alerts[name] for name in names), xpos=x, ypos=y)


def decode(
    science: Column, template: Column, difference: Column, *, xpos: npt.ArrayLike = np.nan, ypos: npt.ArrayLike = np.nan
) -> Stamps:
    """Images of n alerts from their three columns of gzipped FITS files. Never raises because of a stamp.

    xpos, ypos: positions of the candidates on the detector in pixels, from 1 on; they tell which side of a cut stamp is
    missing. Without them (NaN) the sides of large x and y are taken as missing. An alert gets a reason, which begins
    with the image's name, if an image is missing, cannot be read, has a different or impossible size, or has no finite
    pixel. Raises ValueError for columns of different length.
    """
    columns = [list(_blobs(column)) for column in (science, template, difference)]
    n = len(columns[0])
    if any(len(column) != n for column in columns):
        raise ValueError(f"columns of {', '.join(str(len(column)) for column in columns)} stamps")
    missing = np.stack([_missing_at_begin(position, n) for position in (ypos, xpos)], axis=1)
    images = np.full((n, len(NAMES), SIDE, SIDE), np.nan, np.float32)
    shape = np.zeros((n, len(NAMES), 2), np.int16)
    reason = np.full(n, None, object)
    for i, blobs in enumerate(zip(*columns, strict=True)):
        try:
            _place(blobs, missing[i], images[i], shape[i])
        except StampError as error:
            images[i] = np.nan
            reason[i] = str(error)
    has_value = np.abs(images) < NO_VALUE  # false for NaN, too
    np.copyto(images, np.nan, where=~has_value)
    is_empty = np.logical_not(has_value.any(axis=(2, 3)))
    for i in np.flatnonzero(is_empty.any(axis=1)).tolist():
        if reason[i] is None:
            reason[i] = f"{NAMES[int(is_empty[i].argmax())]}: no pixel has a value"
            images[i] = np.nan
    return Stamps(images, shape, reason)


def _blobs(column: Column) -> Iterator[Blob | None]:
    """The values of a column; of an Arrow column, without a copy."""
    if not isinstance(column, pa.Array | pa.ChunkedArray):
        yield from column
        return
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        array = chunk.cast(pa.large_binary())
        _, offset_buffer, data = array.buffers()
        offsets = np.frombuffer(offset_buffer, np.int64, len(array) + 1, 8 * array.offset).tolist() if data else []
        content = memoryview(data) if data else memoryview(b"")
        valid = array.is_valid().to_pylist()
        for i, is_there in enumerate(valid):
            yield content[offsets[i] : offsets[i + 1]] if is_there and offsets else None


def _missing_at_begin(position: npt.ArrayLike, n: int) -> npt.NDArray[np.int64]:
    """Number of rows or columns missing before the first one of a stamp: the detector begins at pixel 1."""
    places = np.broadcast_to(np.asarray(position, np.float64), n)
    is_known = np.isfinite(places)
    pixel = np.rint(np.where(is_known, places, SIDE)).clip(1, SIDE).astype(np.int64)
    return np.maximum(CENTRE + 1 - pixel, 0)


def _place(blobs: Sequence[Blob | None], missing: npt.NDArray[Any], out: Floats, shape: npt.NDArray[np.int16]) -> None:
    """Read the three images of one alert into `out` (3, 63, 63) and their sizes into `shape`."""
    for channel, (name, blob) in enumerate(zip(NAMES, blobs, strict=True)):
        try:
            image = read_fits(_inflate(blob))
        except StampError as error:
            raise StampError(f"{name}: {error}") from error
        rows, columns = image.shape
        if not (LEAST_SIDE <= rows <= SIDE and LEAST_SIDE <= columns <= SIDE):
            raise StampError(f"{name}: {rows} × {columns} pixels, not {LEAST_SIDE} to {SIDE} on a side")
        shape[channel] = rows, columns
        if channel and (rows, columns) != tuple(shape[0]):
            raise StampError(f"{name}: {rows} × {columns} pixels, {NAMES[0]} has {shape[0, 0]} × {shape[0, 1]}")
        y, x = min(int(missing[0]), SIDE - rows), min(int(missing[1]), SIDE - columns)
        with np.errstate(over="ignore"):
            out[channel, y : y + rows, x : x + columns] = image


def _inflate(blob: Blob | None) -> bytes:
    if blob is None or not len(blob):
        raise StampError("no stamp")
    stream = isal_zlib.decompressobj(wbits=31)
    try:
        content: bytes = stream.decompress(blob, MAX_FITS + 1)
    except isal_zlib.error as error:  # type: ignore[misc]  # isal's stub gives an instance for the class
        raise StampError("not gzip, or damaged") from error
    if len(content) > MAX_FITS:
        raise StampError(f"more than {MAX_FITS} bytes when inflated")
    if not stream.eof:
        raise StampError("gzip is cut off")
    if stream.unused_data.strip(b"\0"):
        raise StampError("bytes left over after the gzip stream")
    return content


def read_fits(content: bytes) -> npt.NDArray[Any]:
    """Primary image of a FITS file: y, x; float32, or float64 where the file has doubles, integers or a scale.

    BSCALE, BZERO and BLANK are applied (blank pixels are NaN). Raises StampError for anything that is not a
    two-dimensional image in the first HDU.
    """
    cards, start = _header(content)
    if _number(cards, "NAXIS") != 2:
        raise StampError(f"NAXIS is {cards.get('NAXIS')}, not 2")
    columns, rows = int(_number(cards, "NAXIS1")), int(_number(cards, "NAXIS2"))
    form = _PIXELS.get(int(_number(cards, "BITPIX")))
    if form is None:
        raise StampError(f"BITPIX is {cards['BITPIX']}")
    count = rows * columns
    if rows < 0 or columns < 0 or start + count * np.dtype(form).itemsize > len(content):
        raise StampError(f"{rows} × {columns} pixels of BITPIX {cards['BITPIX']} do not fit {len(content)} bytes")
    raw = np.frombuffer(content, form, count, start).reshape(rows, columns)
    scale, zero = _number(cards, "BSCALE", 1.0), _number(cards, "BZERO", 0.0)
    is_integer = raw.dtype.kind != "f"
    if not is_integer and (scale, zero) == (1.0, 0.0):
        return raw
    with np.errstate(over="ignore", invalid="ignore"):
        values = raw.astype(np.float64) * scale + zero
    if is_integer and "BLANK" in cards:
        values[raw == _number(cards, "BLANK")] = np.nan
    return values


def _header(content: bytes) -> tuple[dict[str, str], int]:
    """Values of the header's cards as text, the first where a name comes twice, and the place after the header."""
    if not content.startswith(b"SIMPLE  ="):
        raise StampError("not FITS")
    cards: dict[str, str] = {}
    for block in range(0, len(content), _BLOCK):
        text = content[block : block + _BLOCK].decode("latin-1")
        for at in range(0, len(text) - _CARD + 1, _CARD):
            name = text[at : at + 8]
            if name == "END     ":
                return cards, block + _BLOCK
            if text[at + 8 : at + 10] == "= ":
                cards.setdefault(name.rstrip(), text[at + 10 : at + _CARD].partition("/")[0].strip())
    raise StampError("FITS header without END")


def _number(cards: Mapping[str, str], name: str, default: float | None = None) -> float:
    text = cards.get(name)
    if text is None:
        if default is None:
            raise StampError(f"FITS header without {name}")
        return default
    try:
        # Integers stay integers: a BLANK of 64 bits has no exact double.
        number = int(text) if text.lstrip("+-").isdecimal() else float(text.upper().replace("D", "E"))
    except ValueError as error:
        raise StampError(f"{name} is {text}") from error
    if not abs(number) < 1e30:
        raise StampError(f"{name} is {text}")
    return number
