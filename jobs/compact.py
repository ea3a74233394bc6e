"""spark-submit entry: `alerce-spark compact`; the arguments are the same."""

import sys

from alerce_spark.cli import main

if __name__ == "__main__":
    main(["compact", *sys.argv[1:]])
