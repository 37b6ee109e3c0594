"""`lodestream bench`: a load client for this service and for any server with an OpenAI-style HTTP API."""
