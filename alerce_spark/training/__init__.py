"""Labels, training sets, and evaluation of both classifiers."""
