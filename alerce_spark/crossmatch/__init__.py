"""Cross-match: positions with catalogues, neighbours that packets carry, local and remote catalogues."""
