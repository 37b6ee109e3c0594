"""Streams as server-sent events."""
