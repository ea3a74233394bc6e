"""Every table of the lake, defined once: columns, units, keys, checks; DDL and Arrow schemas follow from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from alerce_spark import surveys
from alerce_spark.features.names import FEATURES as FEATURE_NAMES
from alerce_spark.surveys.survey import Field, Survey

Type = Literal["int", "long", "float", "double", "boolean", "string", "binary", "timestamp", "map", "values", "list"]

_ARROW: dict[str, pa.DataType] = {
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "string": pa.string(),
    "binary": pa.binary(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "map": pa.map_(pa.string(), pa.string()),
    "values": pa.map_(pa.string(), pa.float64()),
    "list": pa.list_(pa.string()),
}
_SQL: dict[str, str] = {
    "int": "INT",
    "long": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "boolean": "BOOLEAN",
    "string": "STRING",
    "binary": "BINARY",
    "timestamp": "TIMESTAMP",
    "map": "MAP<STRING, STRING>",
    "values": "MAP<STRING, DOUBLE>",
    "list": "ARRAY<STRING>",
}
_DELTA: dict[str, Any] = {
    "int": "integer",
    **{name: name for name in ("long", "float", "double", "boolean", "string", "binary", "timestamp")},
    "map": {"type": "map", "keyType": "string", "valueType": "string", "valueContainsNull": True},
    "values": {"type": "map", "keyType": "string", "valueType": "double", "valueContainsNull": True},
    "list": {"type": "array", "elementType": "string", "containsNull": True},
}


@dataclass(frozen=True)
class Column:
    """A column: name, type, meaning, unit; `required` columns are never null."""

    name: str
    type: Type
    comment: str
    unit: str = ""
    required: bool = False

    @property
    def description(self) -> str:
        """Catalogue comment: meaning and unit."""
        return f"{self.comment} [{self.unit}]" if self.unit else self.comment


@dataclass(frozen=True)
class Table:
    """A Delta table: `key` names its rows and `checks` are SQL conditions by name."""

    name: str
    comment: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    checks: tuple[tuple[str, str], ...] = ()

    @property
    def on_sky(self) -> bool:
        """Whether rows have a position: such a table is partitioned by `pixel`, its files sorted by `healpix29`."""
        return any(c.name == "pixel" for c in self.columns)

    @property
    def names(self) -> list[str]:
        """Column names in order."""
        return [c.name for c in self.columns]

    @property
    def arrow(self) -> pa.Schema:
        """Arrow schema of the rows."""
        return pa.schema([pa.field(c.name, _ARROW[c.type], not c.required) for c in self.columns])

    @property
    def delta_schema(self) -> str:
        """Schema of the rows in the form of Delta's log, comments included."""
        fields = [
            {"name": c.name, "type": _DELTA[c.type], "nullable": not c.required, "metadata": {"comment": c.description}}
            for c in self.columns
        ]
        return json.dumps({"type": "struct", "fields": fields})

    @property
    def ddl(self) -> str:
        """Column list of CREATE TABLE, comments included; Spark reads it as a schema too."""
        return ", ".join(
            f"`{c.name}` {_SQL[c.type]}{' NOT NULL' if c.required else ''} COMMENT {sql_literal(c.description)}"
            for c in self.columns
        )


def ddl_of(schema: pa.Schema) -> str:
    """Column list in Spark's DDL of Arrow columns of the types that tables have. Raises KeyError for another type."""
    sql = {arrow: _SQL[name] for name, arrow in _ARROW.items()}
    return ", ".join(f"`{field.name}` {sql[field.type]}" for field in schema)


def sql_literal(text: str) -> str:
    """SQL string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_SKY = (
    Column("pixel", "int", "HEALPix pixel of the lake's order, nested: the partition", required=True),
    Column(
        "healpix29", "long", "HEALPix pixel of order 29, nested (the HATS index); files are sorted by it", required=True
    ),
    Column("survey", "string", "Survey the row comes from", required=True),
)
_OID = Column("oid", "string", "Object", required=True)
_CANDID = Column("candid", "long", "Alert", required=True)
_MJD = Column("mjd", "double", "Modified Julian date, UTC, start of the exposure", "d", required=True)
_FID = Column("fid", "int", "Filter: 1 g, 2 r, 3 i", required=True)
_VERSION = Column("version", "string", "Version of the code or model that made the row", required=True)
_POSITION_CHECKS = (("ra_range", "ra >= 0 AND ra < 360"), ("dec_range", "dec >= -90 AND dec <= 90"))


def _from_packet(survey: Survey, fields: Iterable[Field], others: Iterable[Column]) -> Iterator[Column]:
    """Columns for the packet fields except `others`, with the same names; Julian dates become modified ones."""
    skip = {column.name for column in others} | {check.column for check in survey.checks if check.kind == "same id"}
    for f in fields:
        name = survey.julian.get(f.target, f.target)
        if name not in skip:
            comment = f.comment if name == f.target else f.comment.replace("Julian", "Modified Julian")
            yield Column(name, f.type, comment, f.unit)


_CORRECTION = (
    Column("isdiffpos", "int", "Sign of the difference flux: +1 brighter, -1 fainter than the reference; null unknown"),
    Column(
        "corrected",
        "boolean",
        "A reference source lies within 1.4, so the apparent magnitude is defined",
        required=True,
    ),
    Column("dubious", "boolean", "The correction contradicts that of the first detection in the band", required=True),
    Column(
        "magpsf_corr", "double", "Apparent magnitude: reference plus difference flux (Eq. 1); null undefined", "mag"
    ),
    Column("sigmapsf_corr", "double", "Its error for a point source (Eq. A28); null undefined", "mag"),
    Column("sigmapsf_corr_ext", "double", "Its error for an extended source (Eq. A29); null undefined", "mag"),
)

_EXTRA = Column("extra", "map", "Fields of the packet that this version does not know, as JSON")


def _detections(survey: Survey) -> Table:
    common = (
        *_SKY,
        _OID,
        _CANDID,
        _MJD,
        _FID,
        Column("ra", "double", "Right ascension, J2000", "deg", required=True),
        Column("dec", "double", "Declination, J2000", "deg", required=True),
        Column("magpsf", "float", "Magnitude of the difference flux, PSF fit", "mag"),
        Column("sigmapsf", "float", "1-sigma error of magpsf", "mag"),
        *_CORRECTION,
        Column("has_stamp", "boolean", "The alert itself was received", required=True),
        Column("parent_candid", "long", "Alert that carried it; null for an alert itself"),
    )
    fields = [field for record in survey.alert for field in record.fields]
    return Table(
        "detections",
        "Detections: alerts, and earlier detections that came inside other alerts. One row a candid.",
        (*common, *_from_packet(survey, fields, common), _EXTRA),
        ("oid", "candid"),
        _POSITION_CHECKS,
    )


def _non_detections(survey: Survey) -> Table:
    common = (
        *_SKY,
        _OID,
        _FID,
        _MJD,
        Column("diffmaglim", "float", "5-sigma limit of the difference image; null where the packet had none", "mag"),
        Column("parent_candid", "long", "Alert that carried it; its position is the row's", required=True),
    )
    return Table(
        "non_detections",
        "Upper limits: visits of an object without a detection.",
        (*common, *_from_packet(survey, survey.of_limits, common)),
        ("oid", "fid", "mjd"),
    )


def _forced_photometry(survey: Survey) -> Table:
    how = survey.forced_photometry
    key = next(field for field in survey.forced.fields if field.target == how.key)
    common = (
        *_SKY,
        _OID,
        Column(how.key, key.type, key.comment, required=True),
        _MJD,
        _FID,
        Column("ra", "double", "Right ascension of the alert that carried it, J2000", "deg", required=True),
        Column("dec", "double", "Declination of the alert that carried it, J2000", "deg", required=True),
        Column("flux", "double", "Difference flux; null where the packet had none", "uJy"),
        Column("e_flux", "double", "1-sigma error of flux", "uJy"),
        Column("mag", "double", "AB magnitude of |flux|", "mag"),
        Column("e_mag", "double", "1-sigma error of mag", "mag"),
        *(c for c in _CORRECTION if c.name in ("isdiffpos", "corrected")),
        Column("mag_corr", "double", "Apparent magnitude (Eq. 1); null undefined", "mag"),
        Column("e_mag_corr", "double", "Its error for a point source (Eq. A28); null undefined", "mag"),
        Column("e_mag_corr_ext", "double", "Its error for an extended source (Eq. A29); null undefined", "mag"),
        Column("parent_candid", "long", "Alert that carried it", required=True),
    )
    return Table(
        "forced_photometry",
        "Forced photometry at the object's position in earlier images. One row an image.",
        (*common, *_from_packet(survey, survey.forced.fields, common), _EXTRA),
        ("oid", how.key),
        _POSITION_CHECKS,
    )


_COUNTS = (
    Column("ndet", "int", "Detections", required=True),
    Column("ndubious", "int", "Dubious detections", required=True),
)


def _magnitude_statistics() -> tuple[Column, ...]:
    meanings = (
        ("mean", "Mean"),
        ("median", "Median"),
        ("max", "Maximum (faintest)"),
        ("min", "Minimum (brightest)"),
        ("sigma", "Standard deviation, n - 1"),
        ("first", "First in time"),
        ("last", "Last in time"),
    )
    columns = []
    for prefix, suffix, of in (("mag", "", "magpsf"), ("mag", "_corr", "magpsf_corr"), ("magap", "", "magap")):
        columns += [Column(f"{prefix}{s}{suffix}", "double", f"{meaning} of {of}", "mag") for s, meaning in meanings]
    return tuple(columns)


OBJECTS = Table(
    "objects",
    "Objects: recomputed from the whole history at each alert. `pixel` is the home: set at insertion, never moved.",
    (
        *_SKY,
        _OID,
        Column("meanra", "double", "Mean right ascension of the detections", "deg", required=True),
        Column("meandec", "double", "Mean declination of the detections", "deg", required=True),
        Column("sigmara", "double", "Standard deviation of the right ascensions, n - 1", "deg"),
        Column("sigmadec", "double", "Standard deviation of the declinations, n - 1", "deg"),
        *_COUNTS,
        Column("firstmjd", "double", "First detection", "d", required=True),
        Column("lastmjd", "double", "Last detection", "d", required=True),
        Column("deltamjd", "double", "lastmjd minus firstmjd", "d", required=True),
        Column("corrected", "boolean", "The first detection of every band is corrected", required=True),
        Column("stellar", "boolean", "Stellar in every band", required=True),
        Column("nearZTF", "boolean", "Near a source of the reference in every band", required=True),
        Column("nearPS1", "boolean", "Near a PS1 source in every band", required=True),
        Column("diffpos", "boolean", "All detections brighter than the reference", required=True),
        Column("reference_change", "boolean", "The reference image was made with frames after the first detection"),
        Column("ndethist", "int", "Earlier detections at the position, from the last alert"),
        Column("ncovhist", "int", "Visits of the position, from the last alert"),
        Column("mjdstarthist", "double", "First of ndethist", "d"),
        Column("mjdendhist", "double", "Last of ndethist", "d"),
        Column("g_r_max", "double", "g - r of the brightest points, magpsf", "mag"),
        Column("g_r_max_corr", "double", "g - r of the brightest points, magpsf_corr", "mag"),
        Column("g_r_mean", "double", "g - r of the means, magpsf", "mag"),
        Column("g_r_mean_corr", "double", "g - r of the means, magpsf_corr", "mag"),
    ),
    ("oid",),
)

MAGSTATS = Table(
    "magstats",
    "Statistics of an object in one band: recomputed from the whole history at each alert.",
    (
        *_SKY,
        _OID,
        _FID,
        *_COUNTS,
        Column("nrfid", "int", "Distinct reference images", required=True),
        Column("corrected", "boolean", "The first detection is corrected", required=True),
        Column("nearZTF", "boolean", "Reference source within 1.4 at the first detection", required=True),
        Column("nearPS1", "boolean", "PS1 source within 1.4 arcsec at the first detection", required=True),
        Column("stellarZTF", "boolean", "The reference source looks like a star", required=True),
        Column("stellarPS1", "boolean", "The PS1 source looks like a star", required=True),
        Column("stellar", "boolean", "Star by PS1, or by the reference where PS1 has nothing", required=True),
        *_magnitude_statistics(),
        Column("sigmapsf_first", "double", "Error of the first magpsf", "mag"),
        Column("firstmjd", "double", "First detection", "d", required=True),
        Column("lastmjd", "double", "Last detection", "d", required=True),
        Column("saturation_rate", "double", "Fraction of corrected detections brighter than 13.2; null without any"),
        Column("dmdt_first", "double", "Fastest rise from an upper limit to the first detection", "mag/d"),
        Column("dm_first", "double", "Its magnitude difference", "mag"),
        Column("sigmadm_first", "double", "Its error", "mag"),
        Column("dt_first", "double", "Its time difference", "d"),
        Column("close_nondet", "boolean", "An upper limit lies within 0.5 d before the first detection", required=True),
    ),
    ("oid", "fid"),
)

FEATURES = Table(
    "features",
    "Light-curve features, one row for an object at an alert; the larger nown wins, then the larger ndet_used.",
    (
        *_SKY,
        _OID,
        _CANDID,
        _MJD,
        _VERSION,
        Column("ndet_used", "int", "Detections that entered", required=True),
        Column("nown", "int", "Detections known by their own alerts then, not by copies in later ones", required=True),
        Column("period_false_alarm", "double", "Probability that noise alone gives so high a peak in the periodogram"),
        Column(
            "novelty",
            "double",
            "How unexpected the latest detection is after those before it in its band, above 0 brighter; null for few",
            "sigma",
        ),
        *(Column(name, "double", "Feature of the light curve (paper, Appendix B)") for name in FEATURE_NAMES),
    ),
    ("oid", "candid", "version"),
)

PROBABILITIES = Table(
    "probabilities",
    "Classifications, one row for an object, classifier, version and alert: the evolution of a class is kept.",
    (
        *_SKY,
        _OID,
        Column("classifier", "string", "Classifier", required=True),
        _VERSION,
        _CANDID,
        _MJD,
        Column("ndet_used", "int", "Detections that entered", required=True),
        Column("nown", "int", "Detections known by their own alerts then, not by copies in later ones", required=True),
        Column("class", "string", "Most probable class", required=True),
        Column("probability", "double", "Its probability", required=True),
        Column("probabilities", "values", "Class to probability"),
        Column("flags", "list", "What a reader should know: ephemeris, negative, stellar (kafka/schemas)"),
        Column("outlier_score", "double", "Share of ordinary objects that fit the known classes better; null unknown"),
        Column("outlier_version", "string", "Version of the model that gave the score; of stamps it is the classifier"),
    ),
    ("oid", "classifier", "version", "candid"),
)

XMATCH = Table(
    "xmatch",
    "Attempts to find objects in catalogues; one without a match is a row without separation.",
    (
        *_SKY,
        _OID,
        Column(
            "catalog", "string", "Catalogue; ss_ztf, ps1_ztf and gaia_ztf are those that packets carry", required=True
        ),
        Column("candid", "long", "Alert whose position was asked about; null: position of the object"),
        Column("ra", "double", "Right ascension asked about, J2000", "deg", required=True),
        Column("dec", "double", "Declination asked about, J2000", "deg", required=True),
        Column("radius", "double", "How far from there a source may lie", "arcsec", required=True),
        Column("attempted", "timestamp", "When it was asked", required=True),
        Column(
            "source_id", "string", "Nearest source; null where there is none, or where packets do not name it (Gaia)"
        ),
        Column("separation", "double", "Its distance; null where no source lies within the radius", "arcsec"),
        Column("attributes", "map", "Its columns by the names of conf/catalogs.toml or of the packet"),
    ),
    ("oid", "catalog"),
    _POSITION_CHECKS,
)

TAXONOMY = Table(
    "taxonomy",
    "Class lists, by classifier and version.",
    (
        Column("classifier", "string", "Classifier", required=True),
        _VERSION,
        Column("classes", "list", "Classes in the order of the probabilities", required=True),
    ),
    ("classifier", "version"),
)

MODELS = Table(
    "models",
    "Trained models.",
    (
        Column("classifier", "string", "Classifier", required=True),
        _VERSION,
        Column("state", "string", "candidate, current or retired", required=True),
        Column("artefact", "string", "Path of the model file", required=True),
        Column("sha256", "string", "Checksum of the artefact", required=True),
        Column("training_set", "string", "Delta table and version of the training set"),
        Column("metrics", "values", "Measured on data kept out of the training"),
    ),
    ("classifier", "version"),
    (("known_state", "state IN ('candidate', 'current', 'retired')"),),
)

QUARANTINE = Table(
    "quarantine",
    "Packets that could not be processed, with reason and bytes. One row a packet and stage.",
    (
        Column("sha256", "string", "Checksum of the bytes", required=True),
        Column("stage", "string", "Query that refused it", required=True),
        Column("survey", "string", "Survey the packet came from", required=True),
        Column("source", "string", "Topic or file it was first seen in", required=True),
        Column("partition", "int", "Kafka partition; null for a file"),
        Column("offset", "long", "Kafka offset; null for a file"),
        Column("reason", "string", "What is wrong", required=True),
        Column("packet", "binary", "The bytes as they came", required=True),
    ),
    ("sha256", "stage"),
)

NIGHTLY_REPORTS = Table(
    "nightly_reports",
    "Integrity of a night, one row a round.",
    (
        Column("night", "string", "Night, YYYYMMDD", required=True),
        Column("round", "int", "Round of the check", required=True),
        Column("finished", "timestamp", "End of the round", required=True),
        Column("expected", "long", "Packets on the topic", required=True),
        Column("missing", "long", "Packets in neither detections nor quarantine", required=True),
        Column("resent", "long", "Packets sent to the reprocess topic", required=True),
        Column("broken", "values", "Invariant to number of violations"),
    ),
    ("night", "round"),
)


TNS_REPORTS = Table(
    "tns_reports",
    "Reports to the Transient Name Server, one row a step; the last step is where a report stands.",
    (
        _OID,
        Column("bot", "string", "Name of the bot that reports", required=True),
        Column("number", "int", "Step, from 0", required=True),
        Column("state", "string", "What the report is from then on (docs/operations.md)", required=True),
        Column("since", "timestamp", "When that was", required=True),
        Column("who", "string", "Person or program that made the step", required=True),
        Column("via", "string", "Where it goes or went: tns or hermes; null before"),
        Column("report", "string", "What is reported, as JSON in the words of TNS", required=True),
        Column("report_id", "string", "Number of the report there; null where none was told"),
        Column("name", "string", "Name of the object at TNS; null while there is none"),
        Column("note", "string", "What was said about it: reasons, errors"),
    ),
    ("oid", "bot", "number"),
)


def tables(survey: Survey) -> dict[str, Table]:
    """Every table of a survey's lake by name, in the order of the data flow."""
    of_packets = (_detections(survey), _non_detections(survey), _forced_photometry(survey))
    of_objects = (OBJECTS, MAGSTATS, FEATURES, PROBABILITIES, XMATCH)
    of_the_broker = (TAXONOMY, MODELS, QUARANTINE, NIGHTLY_REPORTS, TNS_REPORTS)
    return {table.name: table for table in (*of_packets, *of_objects, *of_the_broker)}


#: The tables of the survey that the settings name.
TABLES = tables(surveys.get(surveys.DEFAULT))
