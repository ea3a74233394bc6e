"""Commands on catalogues: import and list them; match the objects of a lake, or the positions in a user's own file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from alerce_spark.cli.common import LOOK, MAINTAIN, Lake, app, console, settings_of, there
from alerce_spark.errors import InputError
from alerce_spark.location import is_remote
from alerce_spark.outputs import TABLE_SUFFIXES, check_out, check_out_folder

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import pyarrow as pa
    from numpy.typing import NDArray

    from alerce_spark.config import CrossmatchSettings, Settings
    from alerce_spark.crossmatch.catalogs import Catalog

    Ask = Callable[[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]], pa.Table]

#: Objects in one request to a service; their rows are stored before the next request.
_REQUEST = 1000

#: The year 1880, when plates began: 0 is a code for no time, and 2016.5 a year.
_FIRST_MJD = 7715.0
#: Options that need --csv, besides --all.
_OF_A_FILE = ("out", "oid_column", "ra_column", "dec_column", "mjd_column")

catalog_app = typer.Typer(no_args_is_help=True, help="Local catalogues that objects are matched with.")
app.add_typer(catalog_app, name="catalog", rich_help_panel=MAINTAIN)


@catalog_app.command("import")
def catalog_import(
    name: Annotated[str, typer.Argument(help="Catalogue, a table of conf/catalogs.toml.")],
    files: Annotated[
        list[Path], typer.Argument(help="CSV, FITS, Parquet, VOTable, … files, HATS folders.", callback=there)
    ],
    lake: Lake = None,
    settings: Annotated[
        Path | None,
        typer.Option(help="Settings of catalogues; default: catalogs.toml beside alerce.toml.", callback=there),
    ] = None,
    scratch: Annotated[
        Path | None, typer.Option(help="Folder for sorting, as large as the rows; default: the system's.")
    ] = None,
) -> None:
    """Make or replace a catalogue in the lake. Bad rows are counted and left out."""
    from alerce_spark import surveys
    from alerce_spark.config import conf_dir
    from alerce_spark.crossmatch.catalogs import CatalogSettingsError, load
    from alerce_spark.lake.catalogs import import_catalog

    file = settings or conf_dir() / "catalogs.toml"
    chosen = settings_of(lake={"path": lake})
    known = load(file, surveys.get(chosen.survey))
    if name not in known:
        raise CatalogSettingsError(f"no catalogue {name!r} in {file}; there are {', '.join(known)}")
    path = chosen.lake.path
    for folder in (scratch, None if is_remote(path) else Path(path)):
        if folder is not None:
            check_out_folder(folder)
    done = import_catalog(path, name, known[name], files, scratch)
    console.print(f"{name}: {done.counts}; {done.rows} rows in pixels of order {done.order}")
    for note in done.counts.notes:
        console.print(note)


@catalog_app.command("list")
def catalog_list(lake: Lake = None) -> None:
    """Show the catalogues of the lake."""
    from alerce_spark.lake.catalogs import imported

    path = settings_of(lake={"path": lake}).lake.path
    catalogs = imported(path)
    if not catalogs:
        raise InputError(f"no catalogues in {path}; import one with: alerce-spark catalog import NAME FILE…")
    table = Table("catalogue", "rows", "radius", "motion", "attributes", "what")
    for catalog in catalogs:
        s = catalog.settings
        motion = f"from {s.epoch}" if s.moves else ""
        table.add_row(catalog.name, str(catalog.rows), f'{s.radius}"', motion, ", ".join(s.attributes), s.title)
    console.print(table)


@app.command("crossmatch", rich_help_panel=LOOK)
def crossmatch(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(help="Catalogues; default: all imported ones.")] = None,
    lake: Lake = None,
    radius: Annotated[float | None, typer.Option(help="Arcsec; default: that of each catalogue.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Also match objects that have an attempt already.")] = False,
    cds: Annotated[
        bool, typer.Option("--cds", help="Ask the CDS X-Match service; default: about all of crossmatch.cds_tables.")
    ] = False,
    csv: Annotated[
        Path | None, typer.Option(help="Match the positions of this table, not the objects.", callback=there)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="With --csv: the result, .csv or .parquet.")] = None,
    oid_column: Annotated[str, typer.Option(help="With --csv.")] = "oid",
    ra_column: Annotated[str, typer.Option(help="With --csv: degrees, or sexagesimal hours.")] = "ra",
    dec_column: Annotated[str, typer.Option(help="With --csv.")] = "dec",
    mjd_column: Annotated[
        str | None, typer.Option(help="With --csv: times for proper motion; default: sources stay at their epoch.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="With --csv: all sources within the radius.")] = False,
) -> None:
    """Match all objects of the lake with its catalogues, into the table xmatch; or a file, into another file."""
    if names and len(set(names)) < len(names):
        raise InputError(f"a catalogue is named twice: {', '.join(names)}")
    if cds and (csv is not None or radius is not None):
        raise InputError("--cds asks about the objects of the lake, within the radius of conf/catalogs.toml")
    if csv is not None:
        if out is None:
            raise InputError("say with --out where the result goes")
        check_out(out, TABLE_SUFFIXES, [csv])
    else:
        _refuse_without_csv(context)
    settings = settings_of(lake={"path": lake})
    path = settings.lake.path
    if cds:
        _ask_cds(settings, names, again)
        return
    from alerce_spark.errors import LakeError
    from alerce_spark.lake.catalogs import check_radius, imported, match
    from alerce_spark.tablefiles import write

    if radius is not None:
        check_radius(radius)
    chosen = names or [catalog.name for catalog in imported(path)]
    if not chosen:
        raise LakeError(f"no catalogues in {path}; import one with: alerce-spark catalog import NAME FILE…")
    if csv is None or out is None:
        for name in chosen:
            _match_lake(settings, name, partial(match, path, name, radius=radius), again)
        return
    positions, notes = _positions(csv, oid_column, ra_column, dec_column, mjd_column)
    found = _matched(path, positions, chosen, radius, every)
    write(found.to_arrow(), out)
    placed, matched = positions["dec"].count(), found.filter(found["separation"].is_not_null())["oid"].n_unique()
    console.print(f"{len(positions)} rows, {placed} of them with a position; {matched} matched; {out}")
    for note in notes:
        console.print(note, markup=False, highlight=False)
    if not matched:
        console.print("no position has a source within the radius")
        raise typer.Exit(1)


def _refuse_without_csv(context: typer.Context) -> None:
    """Raise InputError for an option of a file without --csv: the whole lake would be matched."""
    flags = {"every": "--all", **{name: "--" + name.replace("_", "-") for name in _OF_A_FILE}}
    given = [
        flag for name, flag in flags.items() if (how := context.get_parameter_source(name)) and how.name != "DEFAULT"
    ]
    if given:
        raise InputError(f"{', '.join(given)} without --csv: name the table with --csv, or leave the option out")


def _ask_cds(settings: Settings, names: list[str] | None, again: bool) -> None:
    """Ask the service about every object that lacks a row, in requests of limited size."""
    from alerce_spark import surveys
    from alerce_spark.config import ConfigError, conf_dir
    from alerce_spark.crossmatch.catalogs import load

    tables = settings.crossmatch.cds_tables
    if unknown := sorted(set(names or ()) - set(tables)):
        raise ConfigError(f"crossmatch.cds_tables has no {', '.join(unknown)}; there are {', '.join(tables)}")
    known = load(conf_dir() / "catalogs.toml", surveys.get(settings.survey))
    for name in names or tables:
        _match_lake(settings, name, _service(settings.crossmatch, known, name), again, _REQUEST)


def _service(options: CrossmatchSettings, known: dict[str, Catalog], name: str) -> Ask:
    from alerce_spark.crossmatch.cds import Cds

    table = {name: options.cds_tables[name]}
    service = Cds(table, known, timeout_s=options.cds_timeout_s, url=options.cds_url, batch=_REQUEST)

    def ask(ra: NDArray[np.float64], dec: NDArray[np.float64], _mjd: NDArray[np.float64]) -> pa.Table:
        return service.attempts(ra, dec)

    return ask


def _match_lake(settings: Settings, name: str, ask: Ask, again: bool, most: int | None = None) -> None:
    """Attempts for the objects of the lake, in parts of `most`; `ask` as of `match_objects`."""
    from alerce_spark.crossmatch.rows import CdsError
    from alerce_spark.lease import Lease
    from alerce_spark.streaming.queries.crossmatch import match_objects

    path, objects, matched = settings.lake.path, 0, 0
    parts = {} if most is None else {"most": most}
    with Lease(path, "alerce-spark crossmatch", settings.lake.lease_timeout_s, ["crossmatch"]) as lease:
        try:
            for done in match_objects(path, settings.survey, name, ask, lease.check, again, **parts):
                objects, matched = objects + done.alerts, matched + done.found[name]
        except CdsError as error:
            raise CdsError(f"{error}; {objects} objects have their rows, the others when it is run again") from error
    console.print(f"{name}: {objects} objects, {matched} matched")


def _positions(path: Path, oid: str, ra: str, dec: str, mjd: str | None) -> tuple[pl.DataFrame, list[str]]:
    """Columns oid, ra, dec [deg], mjd of a table, null where they cannot be read; and remarks. TableFileError for none.

    A time that is not an MJD is an error: sources with proper motion would be searched at wrong positions.
    """
    import numpy as np
    import polars as pl
    import pyarrow as pa

    from alerce_spark.tablefiles import TableFileError, opened
    from alerce_spark.tablefiles.values import check_mjd, ids, strict_numbers

    with opened(path) as file:
        columns = file.need(oid=[oid], ra=[ra], dec=[dec], **({} if mjd is None else {"mjd": [mjd]}))
        reader = file.positions([columns["ra"], columns["dec"]])
        rows = file.table(list(dict.fromkeys(columns.values())))
        notes = [*file.notes]
    places = reader.of(rows)
    notes += reader.notes()
    if not len(rows):
        raise TableFileError(f"{path} holds no rows, only a header")
    if not np.isfinite(places[0]).any():
        raise TableFileError(f"{path}: none of the {len(rows)} rows has a position that can be read")
    time = pa.nulls(len(rows), pa.float64())
    if mjd is not None:
        time = strict_numbers(rows[columns["mjd"]], f"{path}: {columns['mjd']}")
        check_mjd(time, f"{path}: {columns['mjd']}", _FIRST_MJD)
    names = ids(rows[columns["oid"]], f"{path}: {columns['oid']}")
    where = (pa.array(values, from_pandas=True) for values in places)
    return pl.DataFrame(pa.table([names, *where, time], names=["oid", "ra", "dec", "mjd"])), notes


def _matched(path: str, positions: pl.DataFrame, names: list[str], radius: float | None, every: bool) -> pl.DataFrame:
    """Matches of each position, one row each, empty for a position without a match; attributes as columns."""
    import polars as pl

    from alerce_spark.errors import LakeError
    from alerce_spark.lake import catalogs

    parts = []
    for name in names:
        local = catalogs.local(path, name)
        if local is None:
            raise LakeError(
                f"no catalogue {name} in {path}; there are {', '.join(c.name for c in catalogs.imported(path))}"
            )
        # Without a time, sources stay at the catalogue's epoch.
        epoch = 51544.5 + 365.25 * ((local.settings.epoch or 2000.0) - 2000.0)
        ra, dec = (positions[column].fill_null(float("nan")) for column in ("ra", "dec"))
        found = catalogs.match(path, name, ra, dec, positions["mjd"].fill_null(epoch), radius, every)
        rows = pl.DataFrame(found.drop(["row", "attributes"]))
        attributes = catalogs.columns(local, found)
        parts.append(pl.concat([positions[found["row"].to_numpy()].drop("mjd"), rows, attributes], how="horizontal"))
    return pl.concat(parts, how="diagonal")
