"""Labelled feature sets for training and evaluation of a classifier, and their columns in an Arrow table."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from alerce_spark.features.names import FEATURES

Float = NDArray[np.float64]
Names = NDArray[np.object_]

#: Columns of a feature set.
SCHEMA = pa.schema(
    [
        pa.field("oid", pa.string(), nullable=False),
        pa.field("class_name", pa.string(), nullable=False),
        pa.field("ndet", pa.int32(), nullable=False),
        *(pa.field(name, pa.float64()) for name in ("magnitude", "ra", "dec")),
        *(pa.field(name, pa.float64()) for name in FEATURES),
    ]
)


@dataclass(frozen=True)
class FeatureSet:
    """n rows: `matrix` (n, 152) in the order of FEATURES, NaN where undefined; `labels` are class names.

    `ndet` is the number of detections used, `magnitude` their mean [mag] (r, else g), `ra`, `dec` [deg]; NaN where
    unknown. `provenance` says where the rows come from, enough to reproduce them.
    """

    oid: Names
    labels: Names
    matrix: Float
    ndet: NDArray[np.int32]
    magnitude: Float
    ra: Float
    dec: Float
    provenance: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.oid)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64], **provenance: str) -> FeatureSet:
        """The chosen rows in the given order; `provenance` is added to the existing entries."""
        columns = {name: values[rows] for name, values in vars(self).items() if name != "provenance"}
        return FeatureSet(**columns, provenance={**self.provenance, **provenance})

    def counts(self) -> dict[str, int]:
        """Number of rows of each class, by name."""
        names, counts = np.unique(self.labels.astype(str), return_counts=True)
        return dict(zip(names.tolist(), counts.tolist(), strict=True))

    def to_arrow(self) -> pa.Table:
        """Columns of SCHEMA sorted by oid; undefined values are null."""
        order = np.argsort(self.oid.astype(str), kind="stable")
        texts = (pa.array(values[order].tolist(), pa.string()) for values in (self.oid, self.labels))
        plain = (self.magnitude, self.ra, self.dec, *np.ascontiguousarray(self.matrix.T))
        numbers = (pa.array(values[order], pa.float64(), from_pandas=True) for values in plain)
        return pa.Table.from_arrays([*texts, pa.array(self.ndet[order], pa.int32()), *numbers], schema=SCHEMA)


def from_arrow(table: pa.Table, provenance: Mapping[str, str]) -> FeatureSet:
    """The feature set of a table with the columns of SCHEMA, sorted by oid. Raises ValueError for missing columns."""
    if missing := [name for name in SCHEMA.names if name not in table.schema.names]:
        raise ValueError(f"the training set lacks the columns {', '.join(missing)}")
    table = table.select(SCHEMA.names).cast(SCHEMA).sort_by("oid")

    def text(name: str) -> Names:
        return np.array(table[name].to_pylist(), object)

    def number(name: str) -> Float:
        return np.asarray(table[name].to_numpy(), np.float64)

    matrix = np.column_stack([number(name) for name in FEATURES])
    ndet = table["ndet"].to_numpy().astype(np.int32)
    return FeatureSet(
        text("oid"),
        text("class_name"),
        matrix,
        ndet,
        number("magnitude"),
        number("ra"),
        number("dec"),
        dict(provenance),
    )


def concatenate(sets: Sequence[FeatureSet], **provenance: str) -> FeatureSet:
    """Rows of several sets one after the other. Raises ValueError if an oid occurs twice or there is no set."""
    if not sets:
        raise ValueError("no feature sets to put together")
    names = [name for name in vars(sets[0]) if name != "provenance"]
    columns = {name: np.concatenate([getattr(s, name) for s in sets]) for name in names}
    if len(set(columns["oid"])) < len(columns["oid"]):
        raise ValueError("feature sets share objects")
    known = {key: value for s in sets for key, value in s.provenance.items()}
    return FeatureSet(**columns, provenance={**known, **provenance})


def held_out(oids: Sequence[str] | Names, share: float) -> NDArray[np.bool_]:
    """Mask of the objects held out for evaluation: `share` of all, decided by the checksum of the name alone.

    So an object stays on the same side as the set grows, and no model has seen objects that evaluate a later one.
    """
    limit = int(share * 2**32)
    digests = (hashlib.sha256(f"held out {name}".encode()).digest() for name in oids)
    return np.array([int.from_bytes(d[:4], "big") < limit for d in digests], np.bool_)
