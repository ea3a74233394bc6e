"""The HTTP services: ALeRCE's routes on the serving index, the lake and the Avro repository."""
