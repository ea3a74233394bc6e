"""Sky positions in files: degrees, other units of angle, and sexagesimal text in its many spellings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from alerce_spark.tablefiles import values
from alerce_spark.tablefiles.names import find
from alerce_spark.tablefiles.opening import TableFileError
from alerce_spark.tablefiles.units import HOUR, degrees_in, is_unit, told

Floats = NDArray[np.float64]

# Names of position columns in order of preference; VizieR computes `_RAJ2000` in degrees.
_PAIRS = (
    ("_RAJ2000", "_DEJ2000"),
    ("RA_ICRS", "DE_ICRS"),
    ("RAdeg", "DEdeg"),
    ("RAJ2000", "DEJ2000"),
    ("ra", "dec"),
    ("ra", "declination"),
    ("ra", "decl"),
    ("RA_(J2000)", "Dec"),
    ("RA_(J2000)", "Dec_(J2000)"),
    ("RA (J2000)", "DEC (J2000)"),
    ("RA(J2000.0)", "DEC(J2000.0)"),
)
_PARTS = ("RAh", "RAm", "RAs", "DE-", "DEd", "DEm", "DEs")

_SEXAGESIMAL = (
    r"(?i)^(?P<sign>[+−–-]?)\s*(?P<whole>\d{1,3})"
    r"\s*(?P<mark>h(?:ours?|rs?)?|ʰ|d(?:eg(?:rees?)?)?|ᵈ|°|º|:|\s)"
    r"(?:\s*(?P<minute>\d{1,2}(?:\.\d*)?)\s*(?:m(?:in)?|ᵐ|′|'|’|:|\s)?"
    r"(?:\s*(?P<second>\d{1,2}(?:\.\d*)?)\s*(?:s(?:ec)?|ˢ|″|\"|”|''|′′)?(?P<fraction>\.\d+)?)?)?$"
)
_MARKED = r"(?i)^(?P<number>[+−–-]?(?:\d+\.?\d*|\.\d+))\s*(?:(?P<hours>h(?:ours?|rs?)?)|d(?:eg(?:rees?)?)?|°|º)$"
_TURNS = (-360.0, 720.0)  # range of right ascensions that are wrapped; values outside are codes like -999
_ROUNDING = 1e-9  # degrees beyond a pole that unit conversion may cause


def position_columns(names: Sequence[str]) -> list[str]:
    """The two columns of a file that hold ra and dec, or the seven parts of the CDS; empty if the file has neither."""
    for pair in _PAIRS:
        found = [find(names, [name]) for name in pair]
        if all(found):
            return [str(name) for name in found]
    parts = [find(names, [name]) for name in _PARTS]
    return [str(name) for name in parts] if all(parts) else []


def positions_wanted() -> str:
    """Names of columns that `position_columns` accepts, for error messages."""
    return ", ".join("/".join(pair) for pair in _PAIRS) + " or " + " ".join(_PARTS)


class Positions:
    """Reads the positions of a file in degrees, chunk by chunk, and records its assumptions.

    Without a unit, numbers are degrees, and text with separators is hours in right ascension, degrees in declination.
    Letters take precedence over units: 12h is hours and 187d degrees. Right ascensions from −360 to 720 are wrapped to
    [0, 360); others, and declinations beyond ±90, are invalid. Raises TableFileError for units that are not angles,
    decimal commas, and sexagesimal right ascensions beyond 24 hours without a d.
    """

    def __init__(self, columns: Sequence[str], units: Mapping[str, str | None], where: str) -> None:
        self.columns = list(columns)
        self._where = where
        self._scales: list[float | None] = []
        for name in self.columns[:2] if len(columns) == 2 else ():
            try:
                self._scales.append(degrees_in(told(name, units.get(name))))
            except TableFileError as error:
                raise TableFileError(f"{where}: column {name}: {error}") from None
        self._largest = [0.0, 0.0]  # of numbers without a unit, at any row so far
        self._hours = [24.0, 0.0]
        self._rows = 0
        self._is_begun = False

    def of(self, table: pa.Table) -> tuple[Floats, Floats]:
        """Right ascension in [0, 360) and declination [deg] of each row; NaN in both if one cannot be read."""
        if len(table) and not self._is_begun:
            self._refuse_units(table.slice(0, 1))
            self._is_begun = True
        if len(self.columns) == len(_PARTS):
            ra, dec = self._of_parts(table)
        else:
            ra, plain_ra = _angle(table[self.columns[0]], self._called(0), self._scales[0], HOUR)
            dec, plain_dec = _angle(table[self.columns[1]], self._called(1), self._scales[1], 1.0)
            if self._scales == [None, None]:
                self._remember(ra[plain_ra & plain_dec], dec[plain_ra & plain_dec])
        dec = np.where(np.abs(dec) <= 90 + _ROUNDING, np.clip(dec, -90, 90), np.nan)
        bad = ~((ra >= _TURNS[0]) & (ra <= _TURNS[1]) & np.isfinite(dec))
        ra = np.mod(np.where(bad, np.nan, ra), 360.0)
        return np.where(ra == 360, 0.0, ra) + 0.0, np.where(bad, np.nan, dec)

    def _refuse_units(self, first: pa.Table) -> None:
        """Raises TableFileError if the first row is a line of units that was not recognised."""
        for name in self.columns:
            unread = values.words(first[name]).filter(values.numbers(first[name], name)[1]).to_pylist()
            for word in (word for word in unread if is_unit(word) and not any(map(str.isdigit, word))):
                raise TableFileError(
                    f"{self._where}: {name} holds {word!r} in its first row, a unit: write that of an angle into the "
                    f"header, like {name} [deg], and leave the line out"
                )

    def _called(self, k: int) -> str:
        return f"{self._where}: {self.columns[k]}"

    def _remember(self, ra: Floats, dec: Floats) -> None:
        placed = np.isfinite(ra) & np.isfinite(dec)
        if placed.any():
            ra, dec = ra[placed], dec[placed]
            self._largest = [max(self._largest[0], np.abs(ra).max()), max(self._largest[1], np.abs(dec).max())]
            self._hours = [min(self._hours[0], ra.min()), max(self._hours[1], ra.max())]
            self._rows += int(placed.sum())

    def notes(self) -> list[str]:
        """Assumptions that may be wrong, in words."""
        if not self._rows:
            return []
        names = f"{self._where}: {' and '.join(self.columns)}"
        if self._largest[0] <= 2 * np.pi and self._largest[1] <= np.pi / 2:
            return [
                f"{names} have no unit and lie within 2π and π/2: taken as degrees. If they are radians, say so in the "
                f"header: {self.columns[0]} [rad]"
            ]
        if self._rows >= 20 and self._hours[0] >= 0 and 20 < self._hours[1] <= 24 and self._largest[1] > 30:
            return [
                f"{names} have no unit and {self.columns[0]} lies within 24: taken as degrees. If it is hours, say so "
                f"in the header: {self.columns[0]} [h]"
            ]
        return []

    def _of_parts(self, table: pa.Table) -> tuple[Floats, Floats]:
        read = {name: _floats(values.numbers(table[name], name)[0]) for k, name in enumerate(self.columns) if k != 3}
        hours, minutes, seconds, degrees, arcmin, arcsec = read.values()
        negative = pc.is_in(values.words(table[self.columns[3]]), pa.array(["-", "−"])).to_numpy(zero_copy_only=False)
        hours = np.where(hours <= 24, hours, np.nan)
        ra = HOUR * _sexagesimal(hours, minutes, seconds)
        return ra, np.where(negative, -1, 1) * _sexagesimal(degrees, arcmin, arcsec)


def _angle(column: values.Column, name: str, scale: float | None, hour: float) -> tuple[Floats, NDArray[np.bool_]]:
    """Degrees, NaN for unreadable values; and which rows were plain numbers. `hour`: degrees in an hour or degree."""
    found, unreadable = values.numbers(column, name)
    angle = _floats(found) * (1.0 if scale is None else scale)
    is_plain = found.is_valid().to_numpy(zero_copy_only=False)
    if not pc.any(unreadable).as_py():
        return angle, is_plain
    text = values.words(column).filter(unreadable)
    if (comma := values.decimal_comma(text)) is not None:
        raise TableFileError(f"{name} holds {comma!r}: write a decimal point, not a comma")
    angle[unreadable.to_numpy(zero_copy_only=False)] = _of_text(text, name, scale, hour)
    return angle, is_plain


def _of_text(text: pa.Array, name: str, scale: float | None, hour: float) -> Floats:
    parts = pc.extract_regex(text, _SEXAGESIMAL)
    mark = pc.utf8_lower(pc.struct_field(parts, "mark"))
    named_hours = pc.or_(pc.starts_with(mark, "h"), pc.equal(mark, "ʰ")).fill_null(False)
    unnamed = pc.or_(pc.equal(mark, ":"), pc.equal(pc.utf8_trim_whitespace(mark), "")).fill_null(False)
    unit = hour if scale is None else (HOUR if scale == HOUR else 1.0)
    factor = np.where(_bools(named_hours), HOUR, np.where(_bools(unnamed), unit, 1.0))
    whole, minute, second = (_part(parts, part) for part in ("whole", "minute", "second"))
    second = second + np.nan_to_num(_part(parts, "fraction"))
    broken = (minute % 1 != 0) & np.isfinite(second) & np.isfinite(minute)  # decimals may be in the last part only
    lone = np.isnan(minute) & ~_bools(unnamed)  # 12h
    minute = np.where(lone, 0.0, minute)
    second = np.where(np.isnan(second) & np.isfinite(minute), 0.0, second)
    angle = np.where(broken, np.nan, _sexagesimal(whole, minute, second)) * factor
    angle = np.where(_minus(pc.struct_field(parts, "sign")), -1, 1) * angle
    beyond = (factor == HOUR) & (np.abs(angle) > 360)
    if (beyond & (np.abs(angle) <= 360 * HOUR)).any():
        value = text[int(np.flatnonzero(beyond)[0])].as_py()
        raise TableFileError(f"{name} holds {value!r}, more than 24 hours: write degrees with d, like 187d42m")
    return np.where(np.isnan(angle), _of_marked(text), angle)


def _of_marked(text: pa.Array) -> Floats:
    """Numbers followed by a unit: 187.5d, 12.5h, 41.2°."""
    parts = pc.extract_regex(text, _MARKED)
    number = pc.replace_substring_regex(pc.struct_field(parts, "number"), "[−–]", "-")
    hours = pc.not_equal(pc.struct_field(parts, "hours"), "").fill_null(False)
    return _floats(pc.cast(number, pa.float64())) * np.where(_bools(hours), HOUR, 1.0)


def _part(parts: pa.Array, name: str) -> Floats:
    found = pc.struct_field(parts, name)
    return _floats(pc.cast(pc.if_else(pc.equal(found, ""), pa.scalar(None, pa.string()), found), pa.float64()))


def _minus(sign: pa.Array) -> NDArray[np.bool_]:
    return _bools(pc.is_in(sign, pa.array(["-", "−", "–"])))


def _bools(column: pa.Array) -> NDArray[np.bool_]:
    return np.asarray(column.to_numpy(zero_copy_only=False), bool)


def _floats(column: pa.Array) -> Floats:
    return np.array(column.fill_null(np.nan).to_numpy(zero_copy_only=False), np.float64)


def _sexagesimal(whole: Floats, minute: Floats, second: Floats) -> Floats:
    valid = (whole >= 0) & (minute >= 0) & (minute < 60) & (second >= 0) & (second <= 60)
    return np.where(valid, whole + minute / 60 + second / 3600, np.nan)
