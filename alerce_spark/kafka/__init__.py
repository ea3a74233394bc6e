"""Kafka: the one-node broker of a laptop, topics, and the schemas of what we publish."""
