"""Model files: found, fetched, verified and read."""
