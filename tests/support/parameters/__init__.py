"""Generates docs/parameters.md: the effect of each parameter by engine. `make parameters` renews it."""
