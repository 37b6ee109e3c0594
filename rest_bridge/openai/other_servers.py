"""Parameters of other servers that change an answer, and that cannot be honoured here.

Surveyed: OpenAI's older and newer API, vLLM, SGLang, Text Generation Inference, llama.cpp, Ollama,
TensorRT-LLM, and the hosted services that add to OpenAI's API. Only what changes an answer by itself is
here: a setting of something that is off (`mirostat_tau`), or of the server's own work (`cache_prompt`), is
without effect.
"""

from __future__ import annotations

from collections.abc import Mapping

Harmless = tuple[object, ...]
"""The values, beside null, in which a parameter asks for nothing; given so, it is accepted."""

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
"""What other servers call the constraints of the output."""

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
"""At both endpoints."""

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

_HERE: Mapping[str, str] = {
    "ebnf": "guided_grammar",
    "format": "response_format",
    "grammar": "guided_grammar",
    "guided_choice": "guided_regex",
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
    """A sentence that names what does the same here; nothing where there is no such parameter."""
    return f" Use {_HERE[name]}." if name in _HERE else ""
