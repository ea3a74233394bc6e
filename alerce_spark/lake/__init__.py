"""The lake: Delta tables partitioned by HEALPix pixel. `open(path)` reads them, with Spark or without."""

from alerce_spark.lake.read import Cone, Lake, open_lake

open = open_lake

__all__ = ["Cone", "Lake", "open"]
