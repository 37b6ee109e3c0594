"""Turns conversations and raw texts into prompt tokens."""
