"""What the lake cannot answer fast, kept ready for services: an index that follows the Delta log, and light curves.

Nothing here needs Spark. The lake is the truth: the index may be deleted at any time and is built from it again.
"""
