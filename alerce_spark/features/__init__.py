"""The 152 light-curve features: one module per family, run over many objects at once."""
