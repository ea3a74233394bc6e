"""Tables for queries: ALeRCE's (`ztf`, `alerce_tap`) as views of the lake's tables, and the lake's (`lake`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from alerce_spark.classifiers.taxonomy import STAMP
from alerce_spark.features.names import FEATURES, OBJECT_FEATURES
from alerce_spark.lake.tables import TABLES as LAKE
from alerce_spark.lake.tables import Table as LakeTable

#: VOTable types by lake type: datatype, arraysize, xtype.
VOTABLE: dict[str, tuple[str, str | None, str | None]] = {
    "short": ("short", None, None),
    "int": ("int", None, None),
    "long": ("long", None, None),
    "float": ("float", None, None),
    "double": ("double", None, None),
    "boolean": ("boolean", None, None),
    "string": ("char", "*", None),
    "timestamp": ("char", "*", "timestamp"),
}
#: DuckDB types by lake type.
STORED = {
    **{"int": "INTEGER", "long": "BIGINT", "float": "FLOAT", "double": "DOUBLE", "boolean": "BOOLEAN"},
    **{"string": "VARCHAR", "timestamp": "TIMESTAMPTZ", "map": "MAP(VARCHAR, VARCHAR)"},
    **{"values": "MAP(VARCHAR, DOUBLE)", "list": "VARCHAR[]"},
}
_UNITS = {"sigma": "", "uJy": "uJy", "pix": "pixel", "DN": "adu", "mag2": "mag2", "mag/d": "mag/d"}
_UCDS = {
    **{"oid": "meta.id;meta.main", "candid": "meta.id", "pid": "meta.id", "fid": "instr.filter", "ndet": "meta.number"},
    **{"meanra": "pos.eq.ra;meta.main", "meandec": "pos.eq.dec;meta.main", "ra": "pos.eq.ra", "dec": "pos.eq.dec"},
    **{"sigmara": "stat.error;pos.eq.ra", "sigmadec": "stat.error;pos.eq.dec", "healpix29": "pos.healpix"},
    **{"mjd": "time.epoch", "firstmjd": "time.epoch", "lastmjd": "time.epoch", "deltajd": "time.interval"},
    **{"deltamjd": "time.interval", "magpsf": "phot.mag", "sigmapsf": "stat.error;phot.mag", "mag": "phot.mag"},
    **{"magpsf_corr": "phot.mag", "sigmapsf_corr": "stat.error;phot.mag", "e_mag": "stat.error;phot.mag"},
    **{"diffmaglim": "phot.mag;stat.max", "probability": "stat.probability", "ranking": "meta.number"},
    **{"class_name": "src.class", "class": "src.class", "name": "meta.id", "value": "stat.value"},
    **{"classifier_name": "meta.id", "classifier": "meta.id", "dist": "pos.angDistance", "flux": "phot.flux"},
    **{"separation": "pos.angDistance", "exptime": "time.duration;obs.exposure", "version": "meta.version"},
    **{"classifier_version": "meta.version", "e_flux": "stat.error;phot.flux", "rb": "stat.likelihood"},
}
_STEP = "alerce_spark"


@dataclass(frozen=True)
class Column:
    """A column: its name, type, unit, meaning, and its SQL in terms of columns of the lake.

    `stored` is the column of the lake with the same values, whose statistics choose files.
    """

    name: str
    type: str
    unit: str
    comment: str
    sql: str
    stored: str | None = None

    @property
    def ucd(self) -> str | None:
        """Meaning of the value as a UCD of the IVOA."""
        return _UCDS.get(self.name)


#: Function that returns the SQL of the view from that of the lake's rows and the values that a query admits.
Select = Callable[[str, Mapping[str, frozenset[str]]], str]


@dataclass(frozen=True)
class Table:
    """A table for queries, made from one of the lake (None: its rows are not in the lake)."""

    name: str
    comment: str
    columns: tuple[Column, ...]
    base: str | None
    #: Columns with the position whose pixel is `healpix29`.
    position: tuple[str, str] | None = None
    key: tuple[str, ...] = ()
    select: Select | None = None
    rows: Sequence[tuple[object, ...]] = field(default=(), compare=False)

    @property
    def schema(self) -> str:
        """Name of its schema."""
        return self.name.partition(".")[0]

    def is_indexed(self, column: Column) -> bool:
        """Whether a condition on a column makes a query fast: the position chooses files."""
        return column.name == "healpix29" or column.name in (self.position or ())

    def column(self, name: str) -> Column | None:
        """A column by its name, in any case."""
        return next((c for c in self.columns if c.name.lower() == name.lower()), None)

    def sql(self, rows: str, admitted: Mapping[str, frozenset[str]]) -> str:
        """The SQL of the view, given that of the lake's rows."""
        if self.select is not None:
            return self.select(rows, admitted)
        return f"SELECT {_listed(self.columns)} FROM {rows}"


def quoted(name: str) -> str:
    """A name quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'


def _listed(columns: Iterable[Column]) -> str:
    return ", ".join(f"{c.sql} AS {quoted(c.name)}" for c in columns)


def _unit(unit: str) -> str:
    return _UNITS.get(unit, unit)


def _stored(table: LakeTable, name: str, as_: str | None = None) -> Column:
    """A column of the lake, under the same or another name; maps and lists become JSON texts."""
    defined = next(c for c in table.columns if c.name == name)
    is_nested = defined.type in ("map", "values", "list")
    sql = f"CAST(to_json({quoted(name)}) AS VARCHAR)" if is_nested else quoted(name)
    kind = "string" if is_nested else defined.type
    comment = f"{defined.comment}, as JSON" if is_nested else defined.comment
    return Column(as_ or name, kind, _unit(defined.unit), comment, sql, None if is_nested else name)


def _of(table: str, names: str) -> tuple[Column, ...]:
    """Columns of a table of the lake; `deltajd=deltamjd` gives one another name."""
    pairs = [(new, old or new) for new, _, old in (name.partition("=") for name in names.split())]
    return tuple(_stored(LAKE[table], old, new) for new, old in pairs)


_STEP_COLUMN = Column("step_id_corr", "string", "", "Code that corrected the photometry", f"'{_STEP}'")
_SUFFIXES = ("mean", "median", "max", "min", "sigma", "last", "first")
_MAGNITUDES = " ".join(f"mag{s}{corr}" for corr in ("", "_corr") for s in _SUFFIXES)
_PS1_COLUMNS = ("objectidps", "sgmag", "srmag", "simag", "szmag", "sgscore", "distpsnr")
_PS1 = " ".join(f"{n}{k}" for k in (1, 2, 3) for n in _PS1_COLUMNS)


def _earliest(per: str, columns: Sequence[Column], needed: str, unique: Mapping[str, str]) -> Select:
    """For each `per`, the alert with the smallest candid among those with a value of `needed`."""

    def select(rows: str, _: Mapping[str, frozenset[str]]) -> str:
        inner = "".join(f", {sql} AS {quoted(name)}" for name, sql in unique.items())
        return (
            f"SELECT {_listed(columns)} FROM (SELECT *{inner} FROM {rows} WHERE has_stamp AND {needed} IS NOT NULL "
            f"WINDOW w AS (PARTITION BY oid) QUALIFY row_number() OVER (PARTITION BY {per} ORDER BY candid) = 1)"
        )

    return select


# Classes.

_PROBABILITY = (
    *_of("probabilities", "oid"),
    Column("class_name", "string", "", "Class", "entry.name"),
    *_of("probabilities", "classifier_name=classifier classifier_version=version"),
    Column("probability", "double", "", "Its probability", "entry.probability"),
    Column("ranking", "int", "", "1 for the class of the object, then by probability", "ranking"),
)


def _counting() -> str:
    """SQL order in which the classification that counts comes first, by the rule of `lake.Lake.classes`."""
    is_stamp = f"classifier = '{STAMP}'"
    return (
        f"CASE WHEN {is_stamp} THEN NULL ELSE mjd END DESC, version DESC, "
        f"CASE WHEN {is_stamp} THEN NULL ELSE ndet_used END DESC, "
        f"CASE WHEN {is_stamp} THEN -candid ELSE candid END DESC"
    )


def _probability(rows: str, _: Mapping[str, frozenset[str]]) -> str:
    entries = (
        "list_sort(list_transform(list_filter(map_entries(probabilities), lambda e: e.value IS NOT NULL), lambda e: "
        "{'other': e.key <> class, 'low': -e.value, 'place': coalesce(list_position(classes, e.key), 1000000), "
        "'name': e.key, 'probability': e.value}))"
    )
    return (
        f"SELECT {_listed(_PROBABILITY)} FROM (SELECT oid, classifier, version, unnest(entries) AS entry, "
        "unnest(range(1, len(entries) + 1))::INTEGER AS ranking FROM (SELECT oid, classifier, version, "
        f"{entries} AS entries FROM (SELECT * FROM {rows} "
        f"QUALIFY row_number() OVER (PARTITION BY oid, classifier ORDER BY {_counting()}) = 1) "
        "LEFT JOIN __orders USING (classifier)))"
    )


# Features.

_FEATURE = (
    *_of("features", "oid"),
    Column("name", "string", "", "Feature, without its band", "feature.name"),
    Column("fid", "int", "", "Filter: 1 g, 2 r; 0 of the object, 12 of both bands", "feature.fid"),
    *_of("features", "version"),
    Column("value", "double", "", "Value; null where it is not defined", "feature.value"),
)


def feature_name(column: str) -> tuple[str, int]:
    """ALeRCE's name of a column of features: the band is a number, not a part of the name."""
    if column not in OBJECT_FEATURES:
        name, _, band = column.rpartition("_")
        return name, int(band)
    return column, 12 if column.startswith(("g-r", "Multiband", "PPE", "Power_rate")) else 0


def _feature(rows: str, admitted: Mapping[str, frozenset[str]]) -> str:
    """One row for each feature; only features that the query admits are read."""
    names = admitted.get("name")
    wanted = [(c, *feature_name(c)) for c in FEATURES if names is None or feature_name(c)[0] in names]
    if not wanted:
        wanted, rows = [(FEATURES[0], *feature_name(FEATURES[0]))], f"(SELECT * FROM {rows} WHERE false)"
    listed = ", ".join(f"{{'name': '{n}', 'fid': {f}::INTEGER, 'value': {quoted(c)}}}" for c, n, f in wanted)
    columns = ", ".join(quoted(c) for c, _, _ in wanted)
    return (
        f"SELECT {_listed(_FEATURE)} FROM (SELECT oid, version, unnest([{listed}]) AS feature FROM "
        f"(SELECT oid, version, {columns} FROM {rows} WHERE ndet_used > 0 QUALIFY row_number() OVER "
        "(PARTITION BY oid ORDER BY mjd DESC, version DESC, ndet_used DESC, candid DESC) = 1))"
    )


# Catalogues.

_XMATCH = (
    *_of("xmatch", "oid catid=catalog oid_catalog=source_id dist=separation"),
    Column("class_catalog", "string", "", "Class in the catalogue: not kept, null", "NULL::VARCHAR"),
    Column("period", "double", "d", "Period in the catalogue: not kept, null", "NULL::DOUBLE"),
)


def _matched(columns: Sequence[Column], condition: str) -> Select:
    return lambda rows, _: f"SELECT {_listed(columns)} FROM {rows} WHERE {condition}"


_WISE = " ".join([*(f"w{k}mpro w{k}sigmpro" for k in (1, 2, 3, 4)), "j_m_2mass h_m_2mass k_m_2mass"]).split()
_ALLWISE = (
    *_of("xmatch", "oid_catalog=source_id oid ra dec"),
    *(Column(n, "double", "mag", f"{n} of AllWISE", f"TRY_CAST(attributes['{n}'] AS DOUBLE)") for n in _WISE),
)

_TAXONOMY = (
    *_of("taxonomy", "classifier_name=classifier classifier_version=version"),
    Column("classes", "string", "", "Classes, as JSON", "CAST(to_json(classes) AS VARCHAR)"),
)


def _same_in_all(columns: Mapping[str, str]) -> dict[str, str]:
    return {name: f"(min({c}) OVER w) IS NOT DISTINCT FROM (max({c}) OVER w)" for name, c in columns.items()}


def _side(name: str, comment: str, columns: str, needed: str, same: Mapping[str, str], per: str = "oid") -> Table:
    """A table with the surroundings of an object from its first alert."""
    listed = _of("detections", columns)
    listed += tuple(
        Column(n, "boolean", "", f"Whether all alerts of the object have one {c}", quoted(n)) for n, c in same.items()
    )
    key = tuple(per.split(", "))
    return Table(name, comment, listed, "detections", None, key, _earliest(per, listed, needed, _same_in_all(same)))


def _views() -> list[Table]:
    """ALeRCE's tables without their schema."""
    detection = (
        "oid candid mjd fid pid diffmaglim isdiffpos nid ra dec magpsf sigmapsf magap sigmagap distnr rb rbversion drb "
        "drbversion magapbig sigmagapbig rfid magpsf_corr sigmapsf_corr sigmapsf_corr_ext corrected dubious "
        "parent_candid has_stamp healpix29"
    )
    objects = (
        "oid ndethist ncovhist mjdstarthist mjdendhist corrected stellar ndet g_r_max g_r_max_corr g_r_mean "
        "g_r_mean_corr meanra meandec sigmara sigmadec deltajd=deltamjd firstmjd lastmjd diffpos reference_change "
        "healpix29"
    )
    magstat = (
        f"oid fid stellar corrected ndet ndubious dmdt_first dm_first sigmadm_first dt_first {_MAGNITUDES} firstmjd "
        "lastmjd saturation_rate"
    )
    quality = (
        "candid oid fid xpos ypos chipsf sky fwhm classtar mindtoedge seeratio aimage bimage aimagerat bimagerat nneg "
        "nbad sumrat scorr dsnrms ssnrms magzpsci magzpsciunc magzpscirms nmatches clrcoeff clrcounc zpclrcov zpmed "
        "clrmed clrrms exptime"
    )
    forced = " ".join(c.name for c in LAKE["forced_photometry"].columns if c.name not in ("pixel", "survey", "extra"))
    reference = (
        "oid rfid candid fid rcid field magnr sigmagnr chinr sharpnr ranr decnr mjdstartref mjdendref nframesref"
    )
    place, seen = ("meanra", "meandec"), ("ra", "dec")
    object_, detected = (*_of("objects", objects), _STEP_COLUMN), (*_of("detections", detection), _STEP_COLUMN)
    return [
        Table("object", "Objects: position, counts, dates, colours.", object_, "objects", place, ("oid",)),
        Table("detection", "Detections, one row a candid.", detected, "detections", seen, ("oid", "candid")),
        Table(
            "non_detection",
            LAKE["non_detections"].comment,
            _of("non_detections", "oid fid mjd diffmaglim"),
            "non_detections",
            None,
            ("oid",),
        ),
        Table(
            "forced_photometry",
            LAKE["forced_photometry"].comment,
            _of("forced_photometry", forced),
            "forced_photometry",
            seen,
            ("oid",),
        ),
        Table(
            "magstat", LAKE["magstats"].comment, (*_of("magstats", magstat), _STEP_COLUMN), "magstats", None, ("oid",)
        ),
        Table(
            "probability",
            "Classes of an object: of each classifier the classification that counts.",
            _PROBABILITY,
            "probabilities",
            None,
            ("oid",),
            _probability,
        ),
        Table(
            "feature",
            "The latest features of each object, one row a feature and band.",
            _FEATURE,
            "features",
            None,
            ("oid",),
            _feature,
        ),
        Table("taxonomy", LAKE["taxonomy"].comment, _TAXONOMY, "taxonomy"),
        Table(
            "xmatch",
            "Nearest sources of catalogues.",
            _XMATCH,
            "xmatch",
            None,
            ("oid",),
            _matched(_XMATCH, "separation IS NOT NULL"),
        ),
        Table(
            "allwise",
            "AllWISE sources that are the nearest ones of objects.",
            _ALLWISE,
            "xmatch",
            None,
            ("oid",),
            _matched(_ALLWISE, "catalog = 'allwise' AND separation IS NOT NULL"),
        ),
        Table(
            "dataquality",
            "Quality of the image and the fit, one row a candid.",
            _of("detections", quality),
            "detections",
            None,
            ("oid", "candid"),
        ),
        _side(
            "ps1_ztf",
            "The three nearest PS1 sources, from an object's first alert.",
            f"oid candid {_PS1} nmtchps",
            "objectidps1",
            {f"unique{k}": f"objectidps{k}" for k in (1, 2, 3)},
        ),
        _side(
            "ss_ztf",
            "The nearest Solar System object, from an object's first alert that has one.",
            "oid candid ssdistnr ssmagnr ssnamenr",
            "ssdistnr",
            {},
        ),
        _side(
            "gaia_ztf",
            "The nearest Gaia sources, from an object's first alert.",
            "oid candid neargaia neargaiabright maggaia maggaiabright",
            "neargaia",
            {"unique1": "maggaia"},
        ),
        _side(
            "reference",
            "Reference images and their nearest source, from the first alert with each.",
            reference,
            "rfid",
            {},
            "oid, rfid",
        ),
    ]


def _classifier() -> Table:
    columns = _of("taxonomy", "classifier_name=classifier classifier_version=version")
    return Table("alerce_tap.classifier", "Classifiers and the versions of their class lists.", columns, "taxonomy")


def _band() -> Table:
    columns = (
        Column("fid", "int", "", "Filter number", "fid"),
        Column("band", "string", "", "Its name", "band"),
        Column("survey", "string", "", "Survey", "survey"),
    )
    return Table("alerce_tap.band", "Filters.", columns, None, rows=[(1, "g", "ztf"), (2, "r", "ztf"), (3, "i", "ztf")])


def _own(table: LakeTable) -> Table:
    """A table of the lake without the partition column."""
    columns = tuple(_stored(table, c.name) for c in table.columns if c.name != "pixel")
    place = {"objects": ("meanra", "meandec"), "detections": ("ra", "dec"), "forced_photometry": ("ra", "dec")}
    return Table(f"lake.{table.name}", table.comment, columns, table.name, place.get(table.name), table.key)


#: Tables of the lake that hold packets or concern the operation of the broker.
_HIDDEN = ("models", "quarantine", "nightly_reports")
_SHARED = (
    *("object", "detection", "non_detection", "forced_photometry", "magstat"),
    *("probability", "feature", "taxonomy", "xmatch"),
)
SCHEMAS = {
    "ztf": "ZTF, in the tables and columns of ALeRCE's database",
    "alerce_tap": "The same, under the names of ALeRCE's TAP service",
    "lake": "The broker's own tables: the evolution of classes and features, all columns of the packets",
    "tap_schema": "What can be asked",
}


def _all() -> dict[str, Table]:
    views = _views()
    named = [_in("ztf", view) for view in views]
    named += [_in("alerce_tap", view) for view in views if view.name in _SHARED]
    named += [_classifier(), _band(), *(_own(t) for t in LAKE.values() if t.name not in _HIDDEN)]
    return {table.name: table for table in named}


def _in(schema: str, view: Table) -> Table:
    return Table(f"{schema}.{view.name}", view.comment, view.columns, view.base, view.position, view.key, view.select)


def _text(name: str, kind: str = "string") -> Column:
    return Column(name, kind, "", _SCHEMA_COMMENTS.get(name, name.replace("_", " ").capitalize()), quoted(name))


_SCHEMA_COMMENTS = {
    **{"utype": "Role in a data model: none", "size": "Length of arrays; deprecated", "principal": "1 for a main one"},
    **{"indexed": "1 where files are skipped by it", "std": "1 where a standard defines it", "ucd": "Meaning, as UCD"},
    **{"xtype": "Extended type", "unit": "Unit of the values", "description": "Meaning"},
}
_SCHEMA = {
    "schemas": "schema_name utype description schema_index:int",
    "tables": "schema_name table_name table_type utype description table_index:int",
    "columns": (
        "table_name column_name datatype arraysize xtype size:int description utype unit ucd indexed:int principal:int "
        "std:int column_index:int"
    ),
    "keys": "key_id from_table target_table description utype",
    "key_columns": "key_id from_column target_column",
}
_SCHEMA_TABLES = {
    **{"schemas": "Schemas", "tables": "Tables", "columns": "Columns of the tables"},
    **{"keys": "Which tables can be joined", "key_columns": "By which columns tables can be joined"},
}
#: Words of ADQL among our names: the standard requires quotes around such a column.
_RESERVED = {"size", "value", "catalog"}


def spelled(name: str) -> str:
    """A column's name in a query: quoted where it is not a plain word."""
    return name if name.isidentifier() and name.lower() not in _RESERVED else quoted(name)


class Key(NamedTuple):
    """A foreign key: a column that names a row of another table."""

    table: str
    column: str
    target: str
    target_column: str
    comment: str


def _keys() -> list[Key]:
    found = []
    for table in _OF_LAKE.values():
        home = "lake.objects" if table.schema == "lake" else f"{table.schema}.object"
        if "oid" in table.key and table.name != home:
            found.append(Key(table.name, "oid", home, "oid", "Its object"))
    own = ("tables schema_name schemas", "columns table_name tables", "key_columns key_id keys")
    for name, column, target in map(str.split, own):
        found.append(Key(f"tap_schema.{name}", column, f"tap_schema.{target}", column, f"Its row in {target}"))
    for column in ("from_table", "target_table"):
        found.append(Key("tap_schema.keys", column, "tap_schema.tables", "table_name", "Its row in tables"))
    return found


def _described() -> dict[str, Table]:
    """TAP_SCHEMA: the tables that describe the tables."""
    empty = {
        name: Table(
            f"tap_schema.{name}", _SCHEMA_TABLES[name], tuple(_text(*c.split(":")) for c in columns.split()), None
        )
        for name, columns in _SCHEMA.items()
    }
    shown = [*_OF_LAKE.values(), *empty.values()]
    rows: dict[str, list[tuple[object, ...]]] = {
        "schemas": [(name, None, comment, k) for k, (name, comment) in enumerate(SCHEMAS.items())],
        "tables": [(t.schema, t.name, "view", None, t.comment, k) for k, t in enumerate(shown)],
        "columns": [_column_row(t, k, c) for t in shown for k, c in enumerate(t.columns)],
        "keys": [(f"k{k}", key.table, key.target, key.comment, None) for k, key in enumerate(KEYS)],
        "key_columns": [(f"k{k}", key.column, key.target_column) for k, key in enumerate(KEYS)],
    }
    return {t.name: replace(t, rows=rows[name]) for name, t in empty.items()}


def _column_row(table: Table, place: int, column: Column) -> tuple[object, ...]:
    datatype, arraysize, xtype = VOTABLE[column.type]
    is_main = column.name in (*table.key, *(table.position or ())) or len(table.columns) < _ALL_MAIN
    head = (table.name, spelled(column.name), datatype, arraysize, xtype, None, column.comment, None)
    is_standard = table.schema == "tap_schema"
    return (
        *head,
        column.unit or None,
        column.ucd,
        int(table.is_indexed(column)),
        int(is_main),
        int(is_standard),
        place,
    )


#: In tables with fewer columns, all are principal ones.
_ALL_MAIN = 16
_OF_LAKE = _all()
KEYS = _keys()
#: Every table by its name.
TABLES: dict[str, Table] = _OF_LAKE | _described()
