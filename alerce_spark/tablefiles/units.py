"""Units in files: angles in degrees, factors between units, and recognition of units in a line of words.

An unknown unit, or one of another kind than required, is rejected by name. Only if a file gives no unit, values are
taken to be in the usual unit.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
from astropy import units as u

from alerce_spark.tablefiles.names import split_unit
from alerce_spark.tablefiles.opening import TableFileError

#: Degrees in an hour of right ascension.
HOUR = 15.0
#: Degrees in one unit, for names that astropy does not know or misinterprets.
_DEGREES = {
    **dict.fromkeys(("", "-", "--", "---", "none"), None),
    **dict.fromkeys(("degs", "degree", "degrees", "decimal degrees", "d:m:s", "dms", "dd:mm:ss", "°"), 1.0),
    **dict.fromkeys(("rads", "radian", "radians"), float(np.degrees(1.0))),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours", "hour angle", "hourangle", "hms", "h:m:s", "hh:mm:ss"), HOUR),
    **dict.fromkeys(("arcmins", "arcminutes", "arcminute", "'", "amin"), 1 / 60),
    **dict.fromkeys(("arcsecs", "arcseconds", "arcsecond", '"', "asec", "arcs"), 1 / 3600),
    **dict.fromkeys(("milliarcsec", "milliarcsecond", "milliarcseconds"), 1 / 3.6e6),
}
#: Units of angle that neither astropy nor we convert: they are recognised as units and rejected.
_OTHER_ANGLES = re.compile(r"(?i)(?:turn|rev|revolution|gon|grad|gradian|mil)s?")
#: Words in brackets or next to a unit that are not units: equinoxes, epochs, frames and magnitude systems.
_NO_UNIT = re.compile(
    r"(?i)(?:(?:eq(?:uinox)?|ep(?:och)?)?[.=\s]*[JB]?\d{4}(?:\.\d*)?|ICRS|ICRF\d?|FK[45]|GCRS|AB|Vega|ST)(?=[\s,;]|$)[,;]?"
)
#: Spellings of rates that astropy does not read: mas/y, masperyr, asecpyr.
_RATE = re.compile(r"(?i)(.*?[^\s/])\s*(?:/|per|p)\s*(?:y|yr|yrs|years?|a|julyr)")
#: Kinds of units by which a line below the header is recognised as a line of units.
_QUANTITIES = ("deg", "deg/yr", "s/yr", "km/s", "mag")


def told(name: str, unit: str | None) -> str | None:
    """The unit of a column from the file, else from brackets after its name; None without one.

    Words that are not units, such as J2000 or ICRS, are ignored.
    """
    text = unit if unit is not None else split_unit(name)[1]
    return (_NO_UNIT.sub("", text).strip() or None) if text else None


def degrees_in(unit: str | None) -> float | None:
    """Degrees in one unit; None without a unit. Raises TableFileError for a unit that is not an angle."""
    name = _spelled(unit or "")
    if name.casefold() in _DEGREES:
        return _DEGREES[name.casefold()]
    for spelling in (name, name.casefold()):
        if (found := _converted(spelling, "deg")) is not None:
            return found
    raise TableFileError(f"the unit {unit!r} is not an angle: write deg, rad, hourangle, arcmin, arcsec or mas")


def factor(unit: str | None, wanted: str) -> float:
    """The factor from the unit in a file to the wanted unit; 1 if one of them is missing.

    Raises TableFileError for a unit that is unknown or of another kind.
    """
    name = _spelled(unit or "")
    if not wanted or name == wanted or is_none(name):
        return 1.0
    rate = _RATE.fullmatch(name)
    for spelling in (name, name.casefold(), *((f"{rate[1]}/yr", f"{rate[1].casefold()}/yr") if rate else ())):
        if (found := _converted(spelling, wanted)) is not None:
            return found
    if rate and rate[1].casefold() in _DEGREES and (found := _converted("deg/yr", wanted)) is not None:
        return found * (_DEGREES[rate[1].casefold()] or 0.0)
    raise TableFileError(f"the unit {unit!r} cannot be converted to {wanted}, the unit that is needed")


def is_none(unit: str) -> bool:
    """Whether the text means "no unit"."""
    return _DEGREES.get(_spelled(unit).casefold(), 0.0) is None


def is_unit(text: str) -> bool:
    """Whether a word of a line is a unit."""
    name = _spelled(text)
    if name.casefold() in _DEGREES or bool(_OTHER_ANGLES.fullmatch(name)):
        return bool(name)
    return (_parsed(name) is not None and not name.replace(".", "").isdigit()) or _is_rate(name)


def is_quantity(text: str) -> bool:
    """Whether a word of a line is a unit of angle, rate, speed or magnitude with more than one letter."""
    name = _spelled(text)
    if len(name) < 2 or name[0] in "+-.0123456789" or is_none(name) or not is_unit(text):
        return False
    known = name.casefold() in _DEGREES or bool(_OTHER_ANGLES.fullmatch(name)) or _is_rate(name)
    return known or any(_converted(s, kind) is not None for s in (name, name.casefold()) for kind in _QUANTITIES)


def _is_rate(name: str) -> bool:
    try:
        return factor(name, "mas/yr") != 0
    except TableFileError:
        return False


def _spelled(unit: str) -> str:
    """The text without quotes and blanks around it, and with single blanks inside."""
    return re.sub(r"\s+", " ", unit.strip().strip('"').strip() or unit.strip())


def _parsed(name: str) -> Any:
    """The astropy unit of that name, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # units that are not quite standard
            found = u.Unit(name)
            return getattr(found, "function_unit", found)  # mag(AB) is mag
    except (ValueError, TypeError, OverflowError):
        return None


def _converted(unit: str, wanted: str) -> float | None:
    """The factor from one unit to another; None if astropy does not know it."""
    parsed, other = _parsed(unit), _parsed(wanted)
    try:
        return None if parsed is None or other is None else float(parsed.to(other))
    except (ValueError, TypeError, OverflowError, u.UnitsError):
        return None
