"""The policy for parameters that the schemas do not declare: refused, without effect, or unknown.

A parameter that becomes supported moves from its table here to a schema. The tables cover OpenAI's APIs,
vLLM, SGLang, Text Generation Inference, llama.cpp, Ollama, TensorRT-LLM, and hosted services that extend
OpenAI's API. A parameter is refused only if it changes an answer by itself. A setting of a feature that is
off (`mirostat_tau`), or of the server's own work (`cache_prompt`), is without effect.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel

from rest_bridge.errors import unsupported
from rest_bridge.openai.inputs import RequestModel
from rest_bridge.openai.requests import (
    FORMATS,
    ChatCompletionRequest,
    ChatMessage,
    CompletionRequest,
    GenerationRequest,
    ResponseFormat,
)

Harmless = tuple[object, ...]
"""The values, beside null, with which a refused parameter changes no answer, and is accepted."""

_NEVER: Harmless = ()
_OFF: Harmless = (False,)
_NONE: Harmless = ([],)
_ZERO: Harmless = (0, 0.0)
_ONE: Harmless = (1, 1.0)

CONSTRAINTS: Mapping[str, Harmless] = {
    "ebnf": _NEVER,
    "format": ("",),
    "grammar": _NEVER,
    "guided_choice": _NEVER,
    "guided_whitespace_pattern": _NEVER,
    "json_schema": _NEVER,
    "regex": _NEVER,
    "structural_tag": _NEVER,
    "structured_outputs": _NEVER,
}
"""Names of constraints of the output on other servers."""

SAMPLING: Mapping[str, Harmless] = {
    "adaptive_target": (-1, -1.0),
    "allowed_token_ids": _NEVER,
    "bad_words": _NONE,
    "bad_words_ids": _NONE,
    "ban_eos_token": _OFF,
    "banned_strings": _NONE,
    "banned_tokens": _NONE,
    "custom_logit_processor": ("",),
    "custom_params": ({},),
    "custom_token_bans": ("",),
    "do_sample": (True,),
    "dry_multiplier": _ZERO,
    "dynatemp_range": _ZERO,
    "encoder_repetition_penalty": _ONE,
    "epsilon_cutoff": _ZERO,
    "eta_cutoff": _ZERO,
    "guidance_scale": _ONE,
    "logits_processors": _NONE,
    "mirostat": _ZERO,
    "mirostat_mode": _ZERO,
    "negative_prompt": ("",),
    "no_repeat_ngram_size": _ZERO,
    "penalty_alpha": _ZERO,
    "random_seed": _NEVER,
    "repeat_last_n": _NEVER,
    "repeat_penalty": _NEVER,
    "sampler_priority": _NONE,
    "samplers": _NEVER,
    "smoothing_factor": _ZERO,
    "temperature_last": _OFF,
    "tfs": _ONE,
    "tfs_z": _ONE,
    "top_a": _ZERO,
    "top_n_sigma": (-1, -1.0, 0, 0.0),
    "typical_p": _ONE,
    "vllm_xargs": ({},),
    "watermark": _OFF,
    "xtc_probability": _ZERO,
}

SEARCH: Mapping[str, Harmless] = {
    "early_stopping": _OFF,
    "length_penalty": _ONE,
    "n_cmpl": _ONE,
    "num_beams": _ONE,
    "num_return_sequences": _ONE,
    "use_beam_search": _OFF,
}

LENGTH: Mapping[str, Harmless] = {
    "max_length": _NEVER,
    "max_new_tokens": _NEVER,
    "max_output_tokens": _NEVER,
    "min_length": _ZERO,
    "min_new_tokens": _ZERO,
    "min_tokens": _ZERO,
    "n_predict": _NEVER,
    "num_predict": _NEVER,
    "repetition_detection": _NEVER,
    "stop_regex": _NONE,
    "stop_sequences": _NONE,
    "stop_words": _NONE,
    "t_max_predict_ms": (-1, 0),
}

PROMPT: Mapping[str, Harmless] = {
    "add_bos_token": (True,),
    "chat_template": _NEVER,
    "context": _NONE,
    "context_length_exceeded_behavior": ("error",),
    "images": _NONE,
    "input_embeds": _NONE,
    "n_keep": _ZERO,
    "num_ctx": _NEVER,
    "num_keep": _ZERO,
    "prompt_embeds": _NONE,
    "prompt_truncate_len": _NEVER,
    "session_params": ({},),
    "system": ("",),
    "template": ("",),
    "token_healing": _OFF,
    "transforms": _NONE,
    "truncate": _NEVER,
    "truncate_prompt_tokens": _NEVER,
    "truncation": ("disabled",),
}

OUTPUT: Mapping[str, Harmless] = {
    "decoder_input_details": _OFF,
    "detokenize": (True,),
    "n_probs": _ZERO,
    "no_stop_trim": _OFF,
    "prompt_logprobs": _NEVER,
    "return_full_text": _OFF,
    "return_hidden_states": _OFF,
    "return_tokens_as_token_ids": _OFF,
    "skip_special_tokens": (True,),
    "top_n_tokens": _ZERO,
}

MODEL: Mapping[str, Harmless] = {
    "adapter_id": ("",),
    "lora": _NONE,
    "lora_path": ("",),
    "lora_request": ({},),
    "options": ({},),
}

EVERYWHERE: Mapping[str, Harmless] = {
    **CONSTRAINTS,
    **SAMPLING,
    **SEARCH,
    **LENGTH,
    **PROMPT,
    **OUTPUT,
    **MODEL,
}
"""Refused at both endpoints."""

IN_CHAT: Mapping[str, Harmless] = {
    "add_special_tokens": _OFF,
    "best_of": _ONE,
    "chat_template_kwargs": ({}, {"enable_thinking": False}, {"thinking": False}),
    "data_sources": _NONE,
    "documents": _NONE,
    "echo": _OFF,
    "enable_search": _OFF,
    "plugins": _NONE,
    "prompt_mode": _NEVER,
    "safe_prompt": _OFF,
    "search_parameters": ({"mode": "off"},),
    "suffix": ("",),
    "think": _OFF,
    "thinking": ({"type": "disabled"},),
    "tool_prompt": ("",),
}

IN_COMPLETIONS: Mapping[str, Harmless] = {"add_special_tokens": (True,)}

IN_MESSAGES: Mapping[str, Harmless] = {"images": _NONE, "partial": _OFF, "prefix": _OFF}

_ALTERNATIVES: Mapping[str, str] = {
    "ebnf": "guided_grammar",
    "format": "response_format",
    "grammar": "guided_grammar",
    "guided_choice": "guided_regex",
    "guided_whitespace_pattern": "whitespace",
    "json_schema": "response_format",
    "max_length": "max_tokens",
    "max_new_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "n_cmpl": "n",
    "n_predict": "max_tokens",
    "n_probs": "logprobs",
    "no_stop_trim": "include_stop_str_in_output",
    "num_predict": "max_tokens",
    "num_return_sequences": "n",
    "partial": "continue_final_message",
    "prefix": "continue_final_message",
    "random_seed": "seed",
    "regex": "guided_regex",
    "repeat_penalty": "repetition_penalty",
    "stop_sequences": "stop",
    "stop_words": "stop",
    "structured_outputs": "response_format",
    "top_n_tokens": "top_logprobs",
}


def advice(name: str) -> str:
    """A sentence that names the parameter with the same effect here; empty if there is none."""
    return f" Use {_ALTERNATIVES[name]}." if name in _ALTERNATIVES else ""


REFUSED_IN_CHAT: Mapping[str, Harmless] = {
    **EVERYWHERE,
    **IN_CHAT,
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "moderation": (),
    "web_search_options": (),
}

REFUSED_IN_COMPLETIONS: Mapping[str, Harmless] = {
    **EVERYWHERE,
    **IN_COMPLETIONS,
    "suffix": ("",),
}

REFUSED_IN_MESSAGES: Mapping[str, Harmless] = {
    **IN_MESSAGES,
    "audio": (),
    "function_call": (),
}

WITHOUT_EFFECT = frozenset(
    {
        "enable_thinking",
        "metadata",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning",
        "reasoning_effort",
        "safety_identifier",
        "service_tier",
        "store",
        "verbosity",
    }
)
"""Known parameters that never have an effect here."""

_PLAIN = frozenset({bool, int, float, str, dict})
HEADER = "x-ignored-parameters"
_HEADER_LIMIT = 1000
_NAME_LIMIT = 64
_PATH_LIMIT = 200
"""Longest path of a keyword in a schema."""
_SCHEMAS = ("tools[", "response_format.", "guided_json")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.\[\]-]")


@dataclass(frozen=True, slots=True)
class Policy:
    """The policy for undeclared members of one kind of object."""

    refused: Mapping[str, Harmless] = field(default_factory=dict)
    without_effect: frozenset[str] = frozenset()


CHAT = Policy(REFUSED_IN_CHAT, WITHOUT_EFFECT)
COMPLETIONS = Policy(REFUSED_IN_COMPLETIONS, WITHOUT_EFFECT)
_OTHERS = Policy()
_POLICIES: Mapping[type[BaseModel], Policy] = {
    ChatCompletionRequest: CHAT,
    CompletionRequest: COMPLETIONS,
    ChatMessage: Policy(REFUSED_IN_MESSAGES, frozenset({"name"})),
}


def ignored_parameters(request: GenerationRequest, *, streams: bool, strict: bool) -> list[str]:
    """The parameters of a request without effect: `store`, `messages[0].name`. Null counts as unset.

    Raises:
        ApiError: a parameter is not supported, or it is unknown and `strict` is set.

    """
    names = [
        path + _clean(name)
        for path, model in _objects("", request)
        for name, value in (model.model_extra or {}).items()
        if value is not None and _is_ignored(path, name, value, policy_of(type(model)), strict)
    ]
    return [*names, *_combined_without_effect(request, streams)]


def ignored_header(names: Iterable[str]) -> dict[str, str]:
    """The header with the names of ignored parameters, if there are any; `...` at its end: there are more."""
    value = ",".join(_clean(name) for name in names)
    if len(value) > _HEADER_LIMIT:
        value = value[:_HEADER_LIMIT].rpartition(",")[0] + ",..."
    return {HEADER: value} if value else {}


def _objects(path: str, model: RequestModel) -> Iterator[tuple[str, RequestModel]]:
    """Every object of a request, with the path of its members: `tools[0].function.`."""
    yield path, model
    for name, value in model.__dict__.items():
        # Most values are unset or plain, and isinstance() of a pydantic model is slow.
        if value is None or type(value) in _PLAIN:
            continue
        if isinstance(value, RequestModel):
            yield from _objects(f"{path}{name}.", value)
        elif isinstance(value, list) and value and isinstance(value[0], RequestModel):
            for number, element in enumerate(value):
                yield from _objects(f"{path}{name}[{number}].", element)


def policy_of(schema: type[RequestModel]) -> Policy:
    """The policy for the undeclared members of objects of a schema."""
    return _POLICIES.get(schema, _OTHERS)


def _combined_without_effect(request: GenerationRequest, streams: bool) -> Iterator[str]:
    """Declared parameters that the others make ineffective, of those that are not sent to the service."""
    if request.stream_options is not None and not streams:
        yield "stream_options"
    if request.stream and not streams:
        yield "stream"
    if request.response_format is not None:
        yield from _of_format(request.response_format)
    if request.whitespace is not None and not _has_constraint(request):
        yield "whitespace"
    if isinstance(request, ChatCompletionRequest):
        yield from _unread_refusals(request)


def _has_constraint(request: GenerationRequest) -> bool:
    guided = (request.guided_json, request.guided_regex, request.guided_grammar)
    chosen = request.response_format
    return (chosen is not None and chosen.type != "text") or any(one is not None for one in guided)


def _unread_refusals(request: ChatCompletionRequest) -> Iterator[str]:
    for number, turn in enumerate(request.messages):
        if turn.refusal is not None and turn.text != turn.refusal:
            yield f"messages[{number}].refusal"


def _of_format(chosen: ResponseFormat) -> Iterator[str]:
    """Members of a format that its type does not use."""
    for name in FORMATS:
        if name != chosen.type and getattr(chosen, name, None) is not None:
            yield f"response_format.{name}"
    if chosen.type == "json_schema" and chosen.json_schema and chosen.json_schema.description:
        yield "response_format.json_schema.description"


def _is_ignored(path: str, name: str, value: object, policy: Policy, strict: bool) -> bool:
    if name in policy.refused:
        if _is_harmless(value, policy.refused[name]):
            return False
        message = f"{path}{name} is not supported here.{advice(name)}"
        raise unsupported(path + name, message)
    if strict and name not in policy.without_effect:
        raise unsupported(path + _clean(name), f"{path}{_clean(name)} is not a known parameter.")
    return True


def _is_harmless(value: object, harmless: Harmless) -> bool:
    # 1 == True == 1.0 in Python, but not in JSON.
    return any(type(value) is type(given) and value == given for given in harmless)


def _clean(name: str) -> str:
    limit = _PATH_LIMIT if name.startswith(_SCHEMAS) else _NAME_LIMIT
    return _UNSAFE.sub("_", name[:limit]) or "_"
