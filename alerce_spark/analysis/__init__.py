"""Features and classes of a user's tables, computed on the cores of this machine."""
