"""Protobuf requests to validated requests."""
