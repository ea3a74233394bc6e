"""Fast answers for services: an index that follows the Delta log of the lake, and light curves.

Nothing here needs Spark. The lake is the truth: the index may be deleted at any time and is rebuilt from the lake.
"""
