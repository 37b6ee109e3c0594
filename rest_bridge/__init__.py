"""The REST door: OpenAI-style JSON and server-sent events onto the gRPC service."""
