"""The typed client of the inference service: `AsyncClient` for asyncio, `Client` for code that blocks."""

from inference_client.async_client import AsyncClient
from inference_client.async_stream import AsyncStream
from inference_client.channel import DEFAULT_MAX_MESSAGE_BYTES, TlsConfig
from inference_client.constraint import Constraint, Grammar, JsonObject, JsonSchema, Regex
from inference_client.errors import (
    AuthenticationError,
    CancelledByServerError,
    ClosedError,
    ContextLengthError,
    DeadlineError,
    FieldViolation,
    InferenceError,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    ProtocolError,
    QueueFullError,
    RateLimitError,
    ReaderStalledError,
    RequestTooLargeError,
    UnavailableError,
)
from inference_client.events import (
    Delta,
    Event,
    Finished,
    FinishReason,
    Started,
    StopCause,
    Summary,
    Timings,
    Usage,
)
from inference_client.generation import Choice, Generation
from inference_client.health import Health
from inference_client.logprobs import TokenLogprob
from inference_client.messages import Message, Messages, Role
from inference_client.models import Model, TokenCount
from inference_client.options import CountOptions, GenerateOptions
from inference_client.report import EffectiveSampling, Report
from inference_client.request import build_request
from inference_client.sync_client import Client
from inference_client.sync_stream import Stream
from inference_client.tools import Tool, ToolCall, ToolCallDelta, ToolChoice, ToolChoiceMode
from inference_client.validation import Validation

__all__ = [
    "DEFAULT_MAX_MESSAGE_BYTES",
    "AsyncClient",
    "AsyncStream",
    "AuthenticationError",
    "CancelledByServerError",
    "Choice",
    "Client",
    "ClosedError",
    "Constraint",
    "ContextLengthError",
    "CountOptions",
    "DeadlineError",
    "Delta",
    "EffectiveSampling",
    "Event",
    "FieldViolation",
    "FinishReason",
    "Finished",
    "GenerateOptions",
    "Generation",
    "Grammar",
    "Health",
    "InferenceError",
    "InternalError",
    "InvalidRequestError",
    "JsonObject",
    "JsonSchema",
    "Message",
    "Messages",
    "Model",
    "NotFoundError",
    "PermissionDeniedError",
    "ProtocolError",
    "QueueFullError",
    "RateLimitError",
    "ReaderStalledError",
    "Regex",
    "Report",
    "RequestTooLargeError",
    "Role",
    "Started",
    "StopCause",
    "Stream",
    "Summary",
    "Timings",
    "TlsConfig",
    "TokenCount",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolChoice",
    "ToolChoiceMode",
    "UnavailableError",
    "Usage",
    "Validation",
    "build_request",
]
