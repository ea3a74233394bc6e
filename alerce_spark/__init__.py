"""alerce_spark: an astronomical alert broker as a batch-and-stream Spark application."""
