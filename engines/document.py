"""A plan as JSON, for scripts, and back again.

The document's shape is a promise: within one `version` names are added, never changed or removed. Sizes are
bytes, times seconds, speeds tokens or bytes or operations a second.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from engines.advice import warnings
from engines.memory import BLOCK_TOKENS
from engines.model_config import CheckpointQuantization, ModelConfig
from engines.plan import Plan, plan
from engines.recipe import Paths, routes

SCHEMA = "lodestream.engine-plan"
VERSION = 1


def to_json(made: Plan, paths: Paths | None = None) -> str:
    """Write a plan and its recipes as one JSON object, indented, in a fixed order."""
    return json.dumps(to_document(made, paths), indent=2)


def from_json(text: str) -> Plan:
    """Make the plan again that a document tells of.

    A plan is a function of its request, so it is planned anew; neither the checkpoint nor a GPU is needed.

    Raises:
        ValueError: the text is no such document, or one of another version.
        PlanRefused: this version of the code would not make such a plan.

    """
    document = json.loads(text)
    if not isinstance(document, dict) or (document.get("schema"), document.get("version")) != (
        SCHEMA,
        VERSION,
    ):
        raise ValueError(f"this is no {SCHEMA} of version {VERSION}")
    request = document["request"]
    return plan(
        _model(document["model"]),
        request["gpu"],
        request["quantization"],
        request["kv_cache"],
        request["tp"],
        max_batch_size=request["max_batch_size"],
        max_seq_len=request["max_seq_len"],
        max_num_tokens=request["max_num_tokens"],
        paged_context=request["paged_context"],
        memory_fraction=request["memory_fraction"],
        lengths=[(c["prompt_tokens"], c["output_tokens"]) for c in document["capacity"]],
        target_tokens_per_second=request.get("target_tokens_per_second"),
    )


def to_document(made: Plan, paths: Paths | None = None) -> dict[str, Any]:
    """Write a plan and its recipes as plain values."""
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "request": _request(made),
        "model": {
            **asdict(made.model),
            "parameters": made.model.parameters,
        },
        "gpu": asdict(made.gpu),
        "weights": {**asdict(made.form), "recommended": made.recommended},
        "memory": _memory(made),
        "capacity": [asdict(c) for c in made.capacity],
        "decode": [asdict(d) for d in made.decode],
        "warnings": list(warnings(made)),
        "routes": [asdict(route) for route in routes(made, paths)],
    }


def _request(made: Plan) -> dict[str, Any]:
    """The arguments of `plan` that give this very plan, with every default filled in."""
    return {
        "gpu": made.gpu.name,
        "quantization": made.form.name,
        "kv_cache": made.kv_cache,
        "tp": made.tp,
        **asdict(made.limits),
        "paged_context": made.paged_context,
        "memory_fraction": made.memory_fraction,
        "target_tokens_per_second": made.target_tokens_per_second,
    }


def _memory(made: Plan) -> dict[str, int]:
    memory = made.memory
    return {
        **asdict(memory),
        "block_tokens": BLOCK_TOKENS,
        "block_bytes": memory.block_bytes,
        "blocks": memory.blocks,
        "tokens": memory.tokens,
    }


def _model(values: Mapping[str, Any]) -> ModelConfig:
    fields = {name: values[name] for name in ModelConfig.__dataclass_fields__}
    quantization = fields["quantization"]
    if quantization is not None:
        quantization = CheckpointQuantization(**{**quantization, "excluded": tuple(quantization["excluded"])})
    return ModelConfig(**{**fields, "quantization": quantization})
