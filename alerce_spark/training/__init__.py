"""Labels, training sets, and honest measures of both classifiers."""
