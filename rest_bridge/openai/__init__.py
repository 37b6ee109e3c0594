"""OpenAI's request and reply shapes, and their conversion to the protocol."""
