"""Writes a plan as JSON for scripts, and reads it back.

The format is stable: within one `version` names are added, never changed or removed. Sizes are bytes, times
seconds, speeds tokens or bytes or operations a second.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, field_validator

from engines.facts.models import ModelConfig
from engines.planning.memory import BLOCK_TOKENS
from engines.planning.plan import Plan, plan, warnings
from engines.planning.recipe import Paths, routes

SCHEMA = "lodestream.engine-plan"
VERSION = 1


class PlanRequest(BaseModel):
    """The arguments of `plan` that give this very plan, with every default filled in."""

    gpu: str
    quantization: str
    kv_cache: str
    tp: int
    max_batch_size: int
    max_seq_len: int
    max_num_tokens: int
    paged_context: bool
    memory_fraction: float
    target_tokens_per_second: int | None = None


class _RequestShape(BaseModel):
    prompt_tokens: int
    output_tokens: int


class _ReadPlan(BaseModel):
    """The part of a document that is read; the rest follows from it."""

    request: PlanRequest
    model: ModelConfig
    capacity: list[_RequestShape]

    @field_validator("model", mode="before")
    @classmethod
    def _name_the_file(cls, model: Any) -> Any:
        """Add where the quantisation was found: documents written before it was recorded lack that."""
        quantization = model.get("quantization") if isinstance(model, dict) else None
        if quantization is None or "file" in quantization:
            return model
        is_modelopt = str(quantization.get("method")).startswith("modelopt")
        file = "hf_quant_config.json" if is_modelopt else "config.json"
        return {**model, "quantization": {**quantization, "file": file}}


def to_json(made: Plan, paths: Paths | None = None) -> str:
    """Write a plan and its recipes as one JSON object, indented, in a fixed order."""
    return json.dumps(to_document(made, paths), indent=2)


def from_json(text: str) -> Plan:
    """Make the plan of a document again.

    A plan is a function of its request, so it is planned anew; neither the checkpoint nor a GPU is needed.

    Raises:
        ValueError: the text is no such document, or one of another version.
        PlanRefused: this version of the code would not make such a plan.

    """
    document = json.loads(text)
    names = document if isinstance(document, dict) else {}
    if (names.get("schema"), names.get("version")) != (SCHEMA, VERSION):
        raise ValueError(f"this is no {SCHEMA} of version {VERSION}")
    read = _ReadPlan.model_validate(document)
    request = read.request.model_dump()
    return plan(
        read.model,
        *(request.pop(name) for name in ("gpu", "quantization", "kv_cache", "tp")),
        **request,
        lengths=[(shape.prompt_tokens, shape.output_tokens) for shape in read.capacity],
    )


def to_document(made: Plan, paths: Paths | None = None) -> dict[str, Any]:
    """Write a plan and its recipes as plain values."""
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "request": _request(made).model_dump(),
        "model": {**asdict(made.model), "parameters": made.model.parameters},
        "gpu": asdict(made.gpu),
        "weights": {**asdict(made.form), "recommended": made.recommended},
        "memory": _memory(made),
        "capacity": [asdict(c) for c in made.capacity],
        "decode": [asdict(d) for d in made.decode],
        "warnings": list(warnings(made)),
        "routes": [asdict(route) for route in routes(made, paths)],
    }


def _request(made: Plan) -> PlanRequest:
    return PlanRequest(
        gpu=made.gpu.name,
        quantization=made.form.name,
        kv_cache=made.kv_cache,
        tp=made.tp,
        **asdict(made.limits),
        paged_context=made.paged_context,
        memory_fraction=made.memory_fraction,
        target_tokens_per_second=made.target_tokens_per_second,
    )


def _memory(made: Plan) -> dict[str, int]:
    memory = made.memory
    return {
        **asdict(memory),
        "block_tokens": BLOCK_TOKENS,
        "block_bytes": memory.block_bytes,
        "blocks": memory.blocks,
        "tokens": memory.tokens,
    }
