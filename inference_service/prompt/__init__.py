"""Conversations and texts to prompt tokens."""
