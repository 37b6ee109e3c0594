"""Schemas → protobuf. Pure.

Only what the caller set goes out: every default and every range lives in the service.
"""

from rest_bridge.convert.request import chat_request, completion_request, names_in

__all__ = ["chat_request", "completion_request", "names_in"]
