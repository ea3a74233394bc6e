"""Values of columns as text, ids with all their digits, numbers, flags and signs, from any input type."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from alerce_spark.tablefiles.opening import TableFileError, as_text

Column: TypeAlias = pa.Array | pa.ChunkedArray

#: Texts that stand for a missing number, in lower case.
NULLS = ("nan", "null", "none", "na", "n/a", "#n/a", "<na>", "nat", "-", "--", "---", "masked")
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$|^[+-]?(?i:inf|infinity)$"
#: Long ids as spreadsheets and programs write them from floating point, and whole numbers with a fraction of zeros.
_ROUNDED = r"^[+-]?(\d[eE]\+|\d+\.\d*[eE]\+?)\d\d\d?$"
_WHOLE = r"^[+-]?\d{16,}\.0*$"
#: Text that a spreadsheet runs as a formula, marked or not: this first character, except signs, numbers and angles.
_FORMULA = r"^'*[=@\t\r+-]"
_SIGNED = r"^'*[+-](?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|\s?\d[\d.: dhms°′″]*)?$"
_DECIMAL_COMMA = r"^[+-]?\d+,\d+$"
#: Whole numbers from here on may be inexact, by the bits of a floating-point column.
_EXACT = {16: 2**11, 32: 2**24, 64: 2**53}

#: MJD 0 is in the year 1858, this in 2132.
_LAST_MJD = 100_000.0
_JD = 2_400_000.5

_TRUE, _FALSE = ("t", "true", "1", "1.0", "yes", "y"), ("f", "false", "0", "0.0", "no", "n")
_POSITIVE, _NEGATIVE = ("t", "true", "1", "1.0", "+1", "+"), ("f", "false", "0", "0.0", "-1", "-1.0", "-")


def plain(column: Column, what: str = "a column") -> pa.Array:
    """One array of numbers, booleans or text. Raises TableFileError for lists, times and other types."""
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = values.type
    if pa.types.is_null(kind):
        return pa.nulls(len(values), pa.string())
    if is_number(values) or pa.types.is_boolean(kind) or pa.types.is_string(kind):
        return values
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_decimal(kind):
        return values.cast(pa.string())
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return decoded(values.cast(pa.binary()))
    raise TableFileError(f"{what} holds {kind}, not numbers or text")


def decoded(values: pa.Array) -> pa.Array:
    """Bytes as text: UTF-8, or Latin-1 for values that are not valid UTF-8."""
    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([None if v is None else as_text(v) for v in values.to_pylist()], pa.string())


def marked(text: Column) -> Column:
    """Text for a CSV file, with an apostrophe (the text mark of spreadsheets) before text that they would run."""
    return pc.if_else(_is_formula(text), pc.binary_replace_slice(text, 0, 0, "'"), text)


def unmarked(text: pa.Array) -> pa.Array:
    """Text of a CSV file without the mark: the inverse of `marked`."""
    quoted = pc.starts_with(text, "'")
    if not pc.any(quoted).as_py():
        return text
    return pc.if_else(pc.and_(quoted, _is_formula(text)), pc.utf8_slice_codeunits(text, 1), text)


def _is_formula(text: Column) -> Column:
    return pc.and_(pc.match_substring_regex(text, _FORMULA), pc.invert(pc.match_substring_regex(text, _SIGNED)))


def is_number(column: pa.Array) -> bool:
    """Whether a column holds integers or floating-point numbers."""
    return bool(pa.types.is_integer(column.type) or pa.types.is_floating(column.type))


def words(column: Column, what: str = "a column") -> pa.Array:
    """Text without surrounding blanks; null if empty."""
    values = plain(column, what)
    if not pa.types.is_string(values.type):
        values = _written(values)
    trimmed = pc.utf8_trim_whitespace(values)
    return pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.string()), trimmed)


def _written(values: pa.Array) -> pa.Array:
    """Numbers as text: NaN is null, and whole numbers in floating point lose their `.0`."""
    if not pa.types.is_floating(values.type):
        return values.cast(pa.string())
    floats = values.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
    is_whole = np.isfinite(floats) & (floats == np.round(floats)) & (np.abs(floats) < 2**53)
    whole = pa.array(np.where(is_whole, floats, 0).astype(np.int64)).cast(pa.string())
    known = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
    return pc.if_else(pa.array(is_whole), whole, known.cast(pa.string()))


def ids(column: Column, what: str) -> pa.Array:
    """Ids as text, exactly: null where blank or NaN. Raises TableFileError where digits may have been lost.

    These are whole numbers in floating point beyond its exact range (2⁵³ in 64 bits), infinities, text written from
    such numbers (1.24625E+18, 1246250000000000000.0), decimals with a fraction, and text with line breaks, where a
    stray quote has joined rows. `what` names the column in the message.
    """
    if pa.types.is_decimal(column.type):
        return _whole_decimals(column, what)
    values = plain(column, what)
    if pa.types.is_floating(values.type):
        limit = _EXACT[values.type.bit_width]
        beyond = pc.greater_equal(pc.abs(values.cast(pa.float64())), float(limit)).fill_null(False)
        if pc.any(beyond).as_py():
            first = values.filter(beyond)[0].as_py()
            raise TableFileError(
                f"{what} holds {first!r} in {values.type.bit_width}-bit floating point, which does not keep all digits "
                f"from {limit} on: give integers or text"
            )
        return words(values)
    found = words(values)
    rounded = found.filter(pc.match_substring_regex(found, _ROUNDED).fill_null(False)).to_pylist()
    whole = found.filter(pc.match_substring_regex(found, _WHOLE).fill_null(False)).to_pylist()
    rounded += [text for text in whole if abs(int(text.partition(".")[0])) >= _EXACT[64]]
    if rounded:
        raise TableFileError(f"{what} holds {rounded[0]!r}, a number that may have lost digits: give the ids in full")
    if broken := found.filter(pc.match_substring_regex(found, r"[\r\n]").fill_null(False)).to_pylist():
        raise TableFileError(f"{what} holds {broken[0][:80]!r}, with a line break in it: a quote too many joins rows")
    return found


def _whole_decimals(column: Column, what: str) -> pa.Array:
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    try:
        return values.cast(pa.decimal256(76, 0)).cast(pa.string())
    except pa.ArrowInvalid:
        raise TableFileError(f"{what} holds numbers with a fraction, not ids: give integers or text") from None


def integers(column: Column, what: str) -> pa.Array:
    """64-bit integers, exact; null where blank, NaN or one of NULLS. Raises TableFileError for anything else."""
    values = plain(column, what)
    if pa.types.is_integer(values.type):
        try:
            return values.cast(pa.int64())
        except pa.ArrowInvalid:
            raise TableFileError(f"{what} holds integers beyond 64 bits with a sign") from None
    text = _known(ids(column, what))
    text = pc.replace_substring_regex(text, r"^([+-]?\d+)\.0*$", r"\1")
    text = pc.replace_substring_regex(text, r"^\+", "")
    is_whole = pc.match_substring_regex(text, r"^-?\d+$")
    _refuse(text, is_whole, what, "which is not a whole number")
    try:
        return pc.cast(text, pa.int64())
    except pa.ArrowInvalid:
        raise TableFileError(f"{what} holds integers beyond 64 bits with a sign") from None


def numbers(column: Column, what: str) -> tuple[pa.Array, pa.Array]:
    """Float64, null for NaN and unreadable values; and a mask of values that are not numbers."""
    values = plain(column, what)
    if not pa.types.is_string(values.type):
        found = values.cast(pa.float64())
        return pc.if_else(pc.is_nan(found), pa.scalar(None, pa.float64()), found), pa.repeat(False, len(found))
    text = words(values)
    try:  # casting all text at once is faster than finding the values that are numbers
        found, unreadable = pc.cast(text, pa.float64()), pa.repeat(False, len(text))
    except pa.ArrowInvalid:
        text = pc.replace_substring(_known(text), "−", "-")
        numeric = pc.match_substring_regex(text, _NUMBER).fill_null(False)
        unreadable = pc.and_(text.is_valid(), pc.invert(numeric))
        found = pc.cast(pc.if_else(numeric, text, pa.scalar(None, pa.string())), pa.float64())
    return pc.if_else(pc.is_nan(found), pa.scalar(None, pa.float64()), found), unreadable


def strict_numbers(column: Column, what: str) -> pa.Array:
    """Like `numbers`, but raises TableFileError for a value that is not a number."""
    found, unreadable = numbers(column, what)
    if pc.any(unreadable).as_py():
        row = pc.index(unreadable, True).as_py()
        value = words(column)[row].as_py()
        raise TableFileError(f"{what} holds {value!r} in row {row + 1}, which is not a number{_advice(value)}")
    return found


def _advice(value: str) -> str:
    return ": write a decimal point, not a comma" if pc.match_substring_regex(value, _DECIMAL_COMMA).as_py() else ""


def decimal_comma(text: pa.Array) -> str | None:
    """The first value that is a number with a decimal comma."""
    found = text.filter(pc.match_substring_regex(text, _DECIMAL_COMMA).fill_null(False))
    return str(found[0]) if len(found) else None


def flags(column: Column, what: str) -> pa.Array:
    """Booleans of true and false, t and f, 1 and 0 in any case; null where blank. TableFileError for other values."""
    return _two(column, what, _TRUE, _FALSE)


def signs(column: Column, what: str) -> pa.Array:
    """`isdiffpos` as +1 or −1 of any of its spellings; null where blank. TableFileError for other values."""
    found = _two(column, what, _POSITIVE, _NEGATIVE)
    return pc.if_else(found, pa.scalar(1, pa.int8()), pa.scalar(-1, pa.int8()))


def _two(column: Column, what: str, yes: tuple[str, ...], no: tuple[str, ...]) -> pa.Array:
    values = plain(column, what)
    if pa.types.is_boolean(values.type):
        return values
    encoded = values.dictionary_encode()
    text = pc.utf8_lower(pc.replace_substring(words(encoded.dictionary), "−", "-"))
    null = pc.is_in(text, pa.array([n for n in NULLS if n not in no]))
    text = pc.if_else(null, pa.scalar(None, pa.string()), text)
    positive, negative = pc.is_in(text, pa.array(yes)), pc.is_in(text, pa.array(no))
    unknown = text.filter(pc.and_(text.is_valid(), pc.invert(pc.or_(positive, negative))))
    if len(unknown):
        raise TableFileError(f"{what} holds {unknown[0].as_py()!r}, which is not one of {', '.join((*yes, *no))}")
    return pc.if_else(text.is_valid(), positive, pa.scalar(None, pa.bool_())).take(encoded.indices)


def _known(text: pa.Array) -> pa.Array:
    """Text with null for the spellings of a missing value."""
    return pc.if_else(pc.is_in(pc.utf8_lower(text), pa.array(NULLS)), pa.scalar(None, pa.string()), text)


def _refuse(text: pa.Array, good: pa.Array, what: str, why: str) -> None:
    bad = pc.and_(text.is_valid(), pc.invert(good.fill_null(False)))
    if pc.any(bad).as_py():
        row = pc.index(bad, True).as_py()
        raise TableFileError(f"{what} holds {text[row].as_py()!r} in row {row + 1}, {why}")


def check_mjd(times: pa.Array, what: str, first: float = 0.0) -> None:
    """Raises TableFileError for a time that is not an MJD: before `first`, a JD, seconds, or a code for "none"."""
    wrong = pc.invert(pc.and_(pc.greater_equal(times, first), pc.less(times, _LAST_MJD))).fill_null(False)
    if pc.any(wrong).as_py():
        value = times.filter(wrong)[0].as_py()
        is_jd = _JD <= value < _JD + _LAST_MJD
        advice = (
            "a Julian Date: subtract 2400000.5" if is_jd else "a Modified Julian Date is a number of days like 59000.5"
        )
        row = pc.index(wrong, True).as_py() + 1
        raise TableFileError(f"{what} holds {value!r} in row {row}, which is not the MJD of an observation; {advice}")
