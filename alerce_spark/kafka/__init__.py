"""Kafka: options of its clients, topics, and the records that this package publishes."""
