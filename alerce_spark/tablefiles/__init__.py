"""Tables in files that people bring and take away: one reader and one writer for every command.

CSV, TSV and other text with a header, ECSV, Parquet, FITS, VOTable, fixed-width tables of the CDS and IPAC tables are
read, any of them gzipped; CSV and Parquet are written. Values keep their columns, ids keep all digits, and what
cannot be read is refused or counted, never guessed.
"""

from alerce_spark.tablefiles.angles import Positions, position_columns, positions_wanted
from alerce_spark.tablefiles.formats import TableFile, opened, read
from alerce_spark.tablefiles.names import OIDS, find
from alerce_spark.tablefiles.opening import TableFileError
from alerce_spark.tablefiles.write import write

__all__ = [
    "OIDS",
    "Positions",
    "TableFile",
    "TableFileError",
    "find",
    "opened",
    "position_columns",
    "positions_wanted",
    "read",
    "write",
]
