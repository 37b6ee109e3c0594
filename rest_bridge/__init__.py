"""The REST bridge: maps OpenAI-style JSON and server-sent events onto the gRPC service."""
