"""Turns engine steps into the events that callers receive."""
