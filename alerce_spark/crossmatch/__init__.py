"""Cross-match: positions with catalogues, neighbours listed in packets, local and remote catalogues."""
