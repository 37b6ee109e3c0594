"""What becomes of each parameter, by engine: docs/parameters.md. `make parameters` renews it."""
