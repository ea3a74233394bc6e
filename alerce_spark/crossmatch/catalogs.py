"""Settings of local catalogues (conf/catalogs.toml): which columns of their files are used and how to match them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from alerce_spark.errors import InputError
from alerce_spark.surveys.survey import Survey

#: Largest radius of a local match [arcsec]: bounds the region that a look-up reads around each object.
LARGEST_RADIUS = 60.0
_NAME = re.compile(r"[a-z][a-z0-9_]*")
#: Columns of every imported catalogue; attributes have other names.
OWN_COLUMNS = ("pixel", "healpix29", "source_id", "ra", "dec", "pmra", "pmdec")

Spellings = Annotated[tuple[str, ...], Field(min_length=1)]


class CatalogSettingsError(InputError):
    """Invalid settings of catalogues; the message names file, catalogue and key."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Attribute(_Section):
    """A column stored with a match: its spellings in files, its unit, and whether it is a number."""

    names: Spellings
    unit: str = ""
    type: Literal["number", "text"] = "number"


class Catalog(_Section):
    """One catalogue; the head of conf/catalogs.toml explains each field."""

    title: str
    where: str = ""
    id: Spellings
    ra: Spellings
    dec: Spellings
    radius: Annotated[float, Field(gt=0, le=LARGEST_RADIUS)]
    epoch: float | None = None
    pmra: tuple[str, ...] = ()
    pmdec: tuple[str, ...] = ()
    pm_max: Annotated[float, Field(ge=0)] = 0.0
    attributes: dict[str, Attribute] = {}

    @property
    def moves(self) -> bool:
        """Whether sources have proper motions."""
        return bool(self.pmra)

    @model_validator(mode="after")
    def _motion_is_complete(self) -> Catalog:
        if len({bool(self.pmra), bool(self.pmdec), self.pm_max > 0}) > 1 or (self.pmra and self.epoch is None):
            raise ValueError("proper motions need all of pmra, pmdec, pm_max and epoch")
        return self

    @model_validator(mode="after")
    def _attributes_have_names_of_their_own(self) -> Catalog:
        if reserved := set(self.attributes) & set(OWN_COLUMNS):
            raise ValueError(f"attributes cannot be called {', '.join(sorted(reserved))}")
        return self


def load(file: Path, survey: Survey) -> dict[str, Catalog]:
    """Settings of every catalogue of a TOML file, by name. Raises CatalogSettingsError.

    No name may be that of a catalogue whose sources the packets of the survey list.
    """
    carried = {neighbour.catalog for neighbour in survey.neighbours}
    try:
        sections = tomllib.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise CatalogSettingsError(f"{file} cannot be read: {error}") from None
    return {name: _catalog(file, name, values, carried) for name, values in sections.items()}


def _catalog(file: Path, name: str, values: object, carried: Collection[str]) -> Catalog:
    if not _NAME.fullmatch(name):
        raise CatalogSettingsError(f"{file}: a catalogue cannot be called {name!r}: use a-z, 0-9 and _")
    if name in carried:
        raise CatalogSettingsError(f"{file}: {name} is the name of the neighbours that packets carry")
    try:
        return Catalog.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join([name, *(str(part) for part in first["loc"])])
        raise CatalogSettingsError(f"{file}: {key}: {first['msg']}") from None
