"""spark-submit entry: `alerce-spark features`; the arguments are the same."""

import sys

from alerce_spark.cli import main

if __name__ == "__main__":
    main(["features", *sys.argv[1:]])
