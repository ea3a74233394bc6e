"""The classifiers: class lists, the light-curve forest and the stamp network, and their model files."""
