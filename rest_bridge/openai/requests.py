"""Bodies of chat and text completions, and the replies that the API's description documents."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from lodestream_common.parameters import PARAMETERS
from rest_bridge.openai.inputs import (
    FIRST_BAD,
    Content,
    LogitBias,
    Part,
    Prompts,
    RefusalPart,
    RequestModel,
    Role,
    Stop,
    documented,
    parameter,
)
from rest_bridge.openai.responses import (
    ChatLogprobs,
    CompletionFinishReason,
    CompletionLogprobs,
    FinishReason,
    ReplyMetadata,
    Usage,
)
from rest_bridge.openai.tools import (
    CalledTool,
    ResponseFormat,
    SchemaOrText,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolChoice,
)

_MAX_TOKENS = PARAMETERS["max_tokens"]


class StreamOptions(RequestModel):
    """What a stream holds beside the text."""

    include_usage: bool | None = documented(
        "Sends one more chunk before the end, with the token counts and no choices.", default=False
    )


class GenerationRequest(RequestModel):
    """The parameters that chat and text completions share."""

    model: str = Field(description="A served model id, or an alias of one.")
    max_tokens: int | None = documented(
        PARAMETERS["max_tokens"].meaning, minimum=PARAMETERS["max_tokens"].low
    )
    max_completion_tokens: int | None = documented(
        "Another name of `max_tokens`.", minimum=PARAMETERS["max_tokens"].low
    )
    temperature: float | None = parameter("temperature")
    top_p: float | None = parameter("top_p")
    top_k: int | None = parameter("top_k")
    min_p: float | None = parameter("min_p")
    frequency_penalty: float | None = parameter("frequency_penalty")
    presence_penalty: float | None = parameter("presence_penalty")
    repetition_penalty: float | None = parameter("repetition_penalty")
    seed: int | None = parameter("seed")
    logit_bias: LogitBias = documented(PARAMETERS["logit_bias"].meaning)
    n: int | None = parameter("n")
    stop: Stop = documented(PARAMETERS["stop"].meaning)
    include_stop_str_in_output: bool | None = parameter("include_stop_str_in_output")
    stop_token_ids: Annotated[list[int] | None, FIRST_BAD] = parameter("stop_token_ids")
    ignore_eos: bool | None = parameter("ignore_eos")
    response_format: ResponseFormat | None = documented(
        "What the answer must be. At most one of this and the `guided_` parameters."
    )
    guided_json: SchemaOrText = documented("A JSON Schema that the answer validates against.")
    guided_regex: str | None = documented("A regular expression that matches the whole answer.")
    guided_grammar: str | None = documented("A grammar in GBNF; its rule `root` generates the whole answer.")
    stream: bool | None = documented("Sends the text as it is made, as server-sent events.", default=False)
    stream_options: StreamOptions | None = documented("Only with `stream`.")
    user: str | None = parameter("user")
    return_token_ids: bool | None = documented(
        "Adds the token ids behind the text to each choice, as `token_ids`.", default=False
    )
    validate_only: bool | None = documented(
        "Checks the request and explains it, as JSON and without generating anything.", default=False
    )


class ChatMessage(RequestModel):
    """One turn of a conversation."""

    role: Role
    content: Annotated[Content, Field(validate_default=True)] = None
    tool_calls: Annotated[list[CalledTool] | None, FIRST_BAD] = documented(
        "Only of the assistant: the calls that it made in this turn."
    )
    tool_call_id: str | None = documented("Required of a tool: the call that this is the result of.")

    refusal: str | None = documented(
        "Only of the assistant: its refusal, read as the text of the turn where there is no other."
    )

    @field_validator("content")
    @classmethod
    def _present(cls, content: str | list[Part] | None, info: ValidationInfo) -> str | list[Part] | None:
        if content is None and info.data.get("role") != "assistant":
            raise PydanticCustomError("missing_required_parameter", "is required")
        refuses = isinstance(content, list) and any(isinstance(part, RefusalPart) for part in content)
        if refuses and info.data.get("role") != "assistant":
            raise PydanticCustomError("invalid_value", "may hold a refusal only where the role is assistant")
        return content

    @property
    def text(self) -> str:
        """The text of the turn; none is empty."""
        text = self.content or ""
        if not isinstance(text, str):
            text = "".join(p.refusal if isinstance(p, RefusalPart) else p.text for p in text)
        return text or (self.refusal or "" if self.role == "assistant" else "")


class ChatCompletionRequest(GenerationRequest):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], FIRST_BAD] = Field(
        description="The conversation, oldest turn first.", json_schema_extra={"minItems": 1}
    )
    logprobs: bool | None = documented("Log probabilities of the answer's tokens.", default=False)
    top_logprobs: int | None = parameter("top_logprobs")
    tools: Annotated[list[Tool] | None, FIRST_BAD] = parameter("tools")
    tool_choice: ToolChoice = documented("Only with `tools`: whether the model calls them.", default="auto")
    parallel_tool_calls: bool | None = documented(
        "Only with `tools`: one answer may hold several calls.", default=True
    )
    add_generation_prompt: bool | None = documented(
        "Ends the prompt with the header of the answer; unset: true, or false with `continue_final_message`."
    )
    continue_final_message: bool | None = documented(
        "The answer continues the text of the last message; not with `add_generation_prompt`.", default=False
    )


class ReplyMessage(BaseModel):
    """The generated turn."""

    role: Literal["assistant"]
    content: str | None = Field(description="Null where the model only called tools.")
    refusal: str | None
    tool_calls: list[ToolCall] | None = Field(default=None, description="Only where the model called tools.")


class ChatChoice(BaseModel):
    """One generated answer."""

    index: int
    message: ReplyMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    token_ids: list[int] | None = Field(default=None, description="Only with `return_token_ids`.")


class ChatCompletion(BaseModel):
    """The whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int = Field(description="Seconds since the Unix epoch.")
    model: str = Field(description="As the request named it.")
    choices: list[ChatChoice]
    usage: Usage
    pg_metadata: ReplyMetadata


class ChatDelta(BaseModel):
    """What is new; the first one of a choice has the role, the last one of a choice is empty."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChatChunkChoice(BaseModel):
    """What is new of one answer."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None
    token_ids: list[int] | None = Field(default=None, description="Only with `return_token_ids`.")


class ChatCompletionChunk(BaseModel):
    """One event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int = Field(description="Seconds since the Unix epoch.")
    model: str = Field(description="As the request named it.")
    choices: list[ChatChunkChoice]
    usage: Usage | None = Field(default=None, description="Only with `stream_options.include_usage`.")
    pg_metadata: ReplyMetadata | None = Field(default=None, description="Beside `usage`.")


class CompletionRequest(GenerationRequest):
    """The body of POST /v1/completions."""

    prompt: Prompts = Field(
        description="The text to continue, or its token ids; or up to 16 of them, answered one by one."
    )
    parse_special: bool | None = documented(
        "Reads the texts of control tokens in a prompt as those tokens, as prompts need that were rendered "
        "from a chat template. Without it they are plain text, and the header x-ignored-parameters names "
        "`prompt.control_tokens`.",
        default=False,
    )
    logprobs: int | None = documented(
        "Log probabilities of the tokens, and of so many likelier ones; OpenAI's own API has up to 5.",
        minimum=PARAMETERS["top_logprobs"].low,
        maximum=PARAMETERS["top_logprobs"].high,
    )
    echo: bool | None = documented("Puts the prompt before the text; not with `logprobs`.", default=False)
    best_of: int | None = documented("Only 1, or the same as `n`: nothing is generated to be left out.")


class CompletionChoice(BaseModel):
    """One generated text; in a stream, what is new of it."""

    text: str
    index: int
    logprobs: CompletionLogprobs | None
    finish_reason: CompletionFinishReason | None = Field(
        description="Null in every chunk of a stream but the last."
    )
    token_ids: list[int] | None = Field(default=None, description="Only with `return_token_ids`.")


class Completion(BaseModel):
    """The whole answer."""

    id: str
    object: Literal["text_completion"]
    created: int = Field(description="Seconds since the Unix epoch.")
    model: str = Field(description="As the request named it.")
    choices: list[CompletionChoice]
    usage: Usage
    pg_metadata: ReplyMetadata


class CompletionChunk(BaseModel):
    """One event of a stream."""

    id: str
    object: Literal["text_completion"]
    created: int = Field(description="Seconds since the Unix epoch.")
    model: str = Field(description="As the request named it.")
    choices: list[CompletionChoice]
    usage: Usage | None = Field(default=None, description="Only with `stream_options.include_usage`.")
    pg_metadata: ReplyMetadata | None = Field(default=None, description="Beside `usage`.")
