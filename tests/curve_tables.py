"""Tables of light curves as users have them: detections, upper limits and AllWISE matches of a few objects."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def curve_tables(seed: int, objects: int = 30) -> tuple[pa.Table, pa.Table, pa.Table]:
    rng = np.random.default_rng(seed)
    n = rng.integers(3, 80, objects)
    oid = np.repeat([f"ZTF20{i:07d}" for i in range(objects)], n)
    rows = len(oid)
    detections = pa.table(
        {
            "oid": oid,
            "candid": np.arange(rows) + 10**18,
            "mjd": rng.uniform(58500, 59500, rows),
            "fid": rng.integers(1, 4, rows).astype(np.int32),
            "magpsf": rng.normal(18, 0.4, rows),
            "sigmapsf": rng.uniform(0.02, 0.2, rows),
            "isdiffpos": rng.choice([-1, 1], rows).astype(np.int32),
            "ra": np.full(rows, 120.0),
            "dec": np.full(rows, -10.0),
            "rb": rng.uniform(0.3, 1, rows),
            "sgscore1": rng.uniform(0, 1, rows),
        }
    )
    some = rng.choice([f"ZTF20{i:07d}" for i in range(objects // 2)], 200)  # half of the objects have no limits
    limits = pa.table(
        {
            "oid": some,
            "mjd": rng.uniform(58400, 59500, 200),
            "fid": rng.integers(1, 3, 200).astype(np.int32),
            "diffmaglim": rng.normal(20, 0.5, 200),
        }
    )
    wise = pa.table(
        {"oid": [f"ZTF20{i:07d}" for i in (0, 1, 1)], **{f"w{k}mpro": [10.0 + k, 12.0, 11.0 - k] for k in range(1, 5)}}
    )
    return detections, limits, wise
