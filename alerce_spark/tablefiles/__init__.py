"""Tables in users' files: one reader and one writer for every command.

Reads CSV, TSV and other text with a header, ECSV, Parquet, FITS, VOTable, fixed-width tables of the CDS and IPAC
tables, also gzipped; writes CSV and Parquet. Values keep their columns, ids keep all digits, and values that cannot be
read are rejected or counted, never guessed.
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
