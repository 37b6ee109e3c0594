"""Protobuf to a request that cannot be wrong: the one default table and every range check.

Both transports end here. Violations name fields by their paths in the protocol.

violations.py  collecting what is wrong; and the checks against the table of parameters
request.py     the whole of a GenerateRequest, and the smaller requests of the model service
length.py      how many tokens a prompt has at least, before anything of it is read
prompt.py      conversations, texts, token ids, batches
tools.py       the functions a model may call, and the calls in a conversation
sampling.py    how tokens are chosen
stopping.py    when to end
output.py      what the answer holds
constraint.py  what the answer must be
unknown.py     what a request holds and nobody here knows
ineffective.py what it holds that has no effect together with the rest
"""

from inference_service.parse.constraint import Constraint
from inference_service.parse.length import PromptMessage, least_tokens
from inference_service.parse.prompt import (
    BatchPrompt,
    ChatPrompt,
    Prompt,
    TextPrompt,
    TokenPrompt,
    prompt_fields,
    single_prompts,
)
from inference_service.parse.request import ParsedRequest, parse_count, parse_generate, parse_model_name
from inference_service.parse.violations import check_token_ids

__all__ = [
    "BatchPrompt",
    "ChatPrompt",
    "Constraint",
    "ParsedRequest",
    "Prompt",
    "PromptMessage",
    "TextPrompt",
    "TokenPrompt",
    "check_token_ids",
    "least_tokens",
    "parse_count",
    "parse_generate",
    "parse_model_name",
    "prompt_fields",
    "single_prompts",
]
