"""Training labels from the paper's eleven catalogues: reading, mapping to our classes, matching, combining."""

from alerce_spark.training.catalogs.mappings import BAD_OIDS, MATCH_RADIUS, SOURCES, Source
from alerce_spark.training.catalogs.match import combine, label_matrix, labels_from_files, match
from alerce_spark.training.catalogs.read import LABELS, ReadReport, read, read_labels, read_oids

__all__ = [
    "BAD_OIDS",
    "LABELS",
    "MATCH_RADIUS",
    "SOURCES",
    "ReadReport",
    "Source",
    "combine",
    "label_matrix",
    "labels_from_files",
    "match",
    "read",
    "read_labels",
    "read_oids",
]
