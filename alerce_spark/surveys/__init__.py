"""Surveys: the only room that knows one by name. Others are handed a `Survey`, by the name that the settings have."""

from __future__ import annotations

from alerce_spark.errors import InputError
from alerce_spark.surveys import ztf
from alerce_spark.surveys.survey import Survey

_SURVEYS = {survey.name: survey for survey in (ztf.ZTF,)}

#: The survey where the settings name none.
DEFAULT = ztf.ZTF.name


def get(name: str) -> Survey:
    """The description of a survey. Raises InputError for an unknown name."""
    if name not in _SURVEYS:
        raise InputError(f"unknown survey {name!r}; known: {', '.join(_SURVEYS)}")
    return _SURVEYS[name]
