"""spark-submit entry: `alerce-spark reclassify`; the arguments are the same."""

import sys

from alerce_spark.cli import main

if __name__ == "__main__":
    main(["reclassify", *sys.argv[1:]])
