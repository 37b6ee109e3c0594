"""From a validated request to a permit and a running generation."""
