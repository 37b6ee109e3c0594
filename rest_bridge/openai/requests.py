"""The request bodies of chat and text completions, as pydantic schemas."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticCustomError

from lodestream_common.parameters import PARAMETERS
from rest_bridge.openai.inputs import (
    STOP_AT_FIRST_ERROR,
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

MODES = ("auto", "none", "required")


def _check_function_type(name: str) -> str:
    if name != "function":
        raise PydanticCustomError("unsupported_parameter", "must be function; no other is supported here")
    return name


FunctionType = Annotated[
    str, AfterValidator(_check_function_type), WithJsonSchema({"type": "string", "enum": ["function"]})
]


class FunctionDefinition(RequestModel):
    """A function that the model may call."""

    name: str = Field(
        description="1 to 64 characters of A-Z, a-z, 0-9, _ and -.",
        json_schema_extra={"pattern": "^[A-Za-z0-9_-]{1,64}$"},
    )
    description: str | None = documented("A description of the function for the model.")
    parameters: dict[str, Any] | None = documented("JSON Schema of its arguments; unset: it has none.")
    strict: bool | None = documented(
        "Where calls are enforced, by `tool_choice` or beside a JSON constraint: a schema that cannot be "
        "enforced is refused, instead of accepting any object."
    )


class Tool(RequestModel):
    """A tool that the model may call."""

    type: FunctionType
    function: FunctionDefinition


class NamedFunction(RequestModel):
    """The function to call."""

    name: str


class NamedTool(RequestModel):
    """The tool to call."""

    type: FunctionType
    function: NamedFunction


class CalledFunction(RequestModel):
    """The function that was called."""

    name: str
    arguments: str = Field(
        description="A JSON object as text; unfinished or other text is passed on as it is."
    )


class CalledTool(RequestModel):
    """A call that the model made in an earlier turn."""

    id: str = Field(description="The message with the result names the same id.")
    type: FunctionType = "function"
    function: CalledFunction


_NAMED = TypeAdapter(NamedTool)


def _read_choice(value: Any) -> str | NamedTool | None:
    if value is None or (isinstance(value, str) and value in MODES):
        return value
    if isinstance(value, dict):
        return _NAMED.validate_python(value, strict=True)
    raise PydanticCustomError("invalid_value", "must be auto, none, required, or an object that names a tool")


ToolChoice = Annotated[
    str | NamedTool | None,
    PlainValidator(_read_choice),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "enum": list(MODES)},
                {
                    "type": "object",
                    "properties": {
                        "type": {"type": "string", "enum": ["function"]},
                        "function": {
                            "type": "object",
                            "properties": {"name": {"type": "string"}},
                            "required": ["name"],
                        },
                    },
                    "required": ["type", "function"],
                },
                {"type": "null"},
            ]
        }
    ),
]
"""Whether the model calls tools, and which."""
FORMATS = ("text", "json_object", "json_schema", "regex", "grammar", "ebnf")


def _check_format_type(name: str) -> str:
    if name not in FORMATS:
        raise PydanticCustomError("invalid_value", f"must be one of {', '.join(FORMATS)}")
    return name


def _read_schema(value: Any) -> dict[str, Any] | str | None:
    if value is None or isinstance(value, dict | str):
        return value
    raise PydanticCustomError("invalid_value", "must be a JSON Schema: an object, or one as text")


class JsonSchemaFormat(RequestModel):
    """A JSON Schema that the answer validates against."""

    name: str | None = documented("A name of your own; the model does not see it.")
    description: str | None = documented("Without effect: the model does not see it.")
    schema_: dict[str, Any] = Field(alias="schema", description="The schema, at most 512 KiB as text.")
    strict: bool | None = documented("The schema is enforced with any value.")


class ResponseFormat(RequestModel):
    """The constraint of the answer."""

    type: Annotated[
        str, AfterValidator(_check_format_type), WithJsonSchema({"type": "string", "enum": list(FORMATS)})
    ]
    json_schema: JsonSchemaFormat | None = documented("Required with the type `json_schema`.")
    regex: str | None = documented(
        "Required with the type `regex`: an expression that matches the whole answer."
    )
    grammar: str | None = documented("Required with the type `grammar`: GBNF with a rule `root`.")
    ebnf: str | None = documented("Required with the type `ebnf`: the same as `grammar`.")


_WHITESPACES = PARAMETERS["whitespace"].values


def _check_whitespace(name: str | None) -> str | None:
    if name is not None and name not in _WHITESPACES:
        raise PydanticCustomError("invalid_value", f"must be one of {', '.join(_WHITESPACES)}")
    return name


Whitespace = Annotated[
    str | None,
    AfterValidator(_check_whitespace),
    WithJsonSchema({"anyOf": [{"type": "string", "enum": list(_WHITESPACES)}, {"type": "null"}]}),
]
"""What may stand between the parts of JSON."""


SchemaOrText = Annotated[
    dict[str, Any] | str | None,
    PlainValidator(_read_schema),
    WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "string"}, {"type": "null"}]}),
]
"""A JSON Schema, as an object or as text."""


_MAX_TOKENS = PARAMETERS["max_tokens"]


class StreamOptions(RequestModel):
    """Additional contents of a stream."""

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
    stop_token_ids: Annotated[list[int] | None, STOP_AT_FIRST_ERROR] = parameter("stop_token_ids")
    ignore_eos: bool | None = parameter("ignore_eos")
    response_format: ResponseFormat | None = documented(
        "A constraint of the answer. At most one of this and the `guided_` parameters."
    )
    guided_json: SchemaOrText = documented("A JSON Schema that the answer validates against.")
    guided_regex: str | None = documented("A regular expression that matches the whole answer.")
    guided_grammar: str | None = documented("A grammar in GBNF; its rule `root` generates the whole answer.")
    whitespace: Whitespace = parameter("whitespace")
    stream: bool | None = documented(
        "Sends the text while it is generated, as server-sent events.", default=False
    )
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
    tool_calls: Annotated[list[CalledTool] | None, STOP_AT_FIRST_ERROR] = documented(
        "Only with the role assistant: the calls that it made in this turn."
    )
    tool_call_id: str | None = documented("Required with the role tool: the id of the call with this result.")

    refusal: str | None = documented(
        "Only with the role assistant: a refusal; it is the text of the turn if `content` is empty."
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
        """The text of the turn; empty if it has none."""
        text = self.content or ""
        if not isinstance(text, str):
            text = "".join(p.refusal if isinstance(p, RefusalPart) else p.text for p in text)
        return text or (self.refusal or "" if self.role == "assistant" else "")


class ChatCompletionRequest(GenerationRequest):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], STOP_AT_FIRST_ERROR] = Field(
        description="The conversation, oldest turn first.", json_schema_extra={"minItems": 1}
    )
    logprobs: bool | None = documented("Log probabilities of the answer's tokens.", default=False)
    top_logprobs: int | None = parameter("top_logprobs")
    tools: Annotated[list[Tool] | None, STOP_AT_FIRST_ERROR] = parameter("tools")
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
        "Log probabilities of the tokens, and of so many of the likeliest; OpenAI's own API allows up to 5.",
        minimum=PARAMETERS["top_logprobs"].low,
        maximum=PARAMETERS["top_logprobs"].high,
    )
    echo: bool | None = documented("Puts the prompt before the text; not with `logprobs`.", default=False)
    best_of: int | None = documented("Only 1, or the same as `n`: every generated choice is returned.")
