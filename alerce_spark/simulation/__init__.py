"""Simulation: a synthetic sky and survey, ZTF packets of any schema version, and the ways packets go wrong."""
