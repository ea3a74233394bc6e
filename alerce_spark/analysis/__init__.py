"""Tables of a user: their features on the cores of this machine, and their classes."""
