"""spark-submit entry: `spark-submit … jobs/alerce.py ARGUMENTS` runs `alerce-spark ARGUMENTS`."""

from alerce_spark.cli import main

if __name__ == "__main__":
    main()
