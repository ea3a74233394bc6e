"""Light curves: correction for the reference, statistics per band and object, rise from the last non-detection."""
