"""spark-submit entry: `alerce-spark retrain`; the arguments are the same."""

import sys

from alerce_spark.cli import main

if __name__ == "__main__":
    main(["retrain", *sys.argv[1:]])
