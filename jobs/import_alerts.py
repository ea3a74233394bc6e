"""spark-submit entry: `alerce-spark import`; the arguments are the same."""

import sys

from alerce_spark.cli import main

if __name__ == "__main__":
    main(["import", *sys.argv[1:]])
