"""spark-submit entry: `alerce-spark integrity`; the arguments are the same."""

import sys

from alerce_spark.cli import main

if __name__ == "__main__":
    main(["integrity", *sys.argv[1:]])
