"""Measures speed and memory, as ratios within one run. No check depends on the figures."""
