"""spark-submit entry: `alerce-spark stream`; the arguments are the same."""

import sys

from alerce_spark.cli import main

if __name__ == "__main__":
    main(["stream", *sys.argv[1:]])
