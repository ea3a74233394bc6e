"""Nightly jobs: proof that nothing was lost, and new models."""
