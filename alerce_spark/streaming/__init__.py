"""Streaming queries: one file each, and the application that runs them."""
