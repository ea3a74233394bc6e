"""Wire formats of alert packets to columns."""
