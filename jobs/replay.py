"""spark-submit entry: `alerce-spark replay`; the arguments are the same."""

import sys

from alerce_spark.cli import main

if __name__ == "__main__":
    main(["replay", *sys.argv[1:]])
