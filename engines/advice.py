"""What somebody should know about a plan that stands."""

from __future__ import annotations

from engines.commands import calibrates_on_cpu
from engines.plan import Plan
from engines.quantization import Support, kv_verdict, weight_verdict


def warnings(plan: Plan) -> tuple[str, ...]:
    """Say it, one sentence each; what nobody has verified comes first and begins with `unverified: `."""
    return (*_unverified(plan), *_surprises(plan))


def _unverified(plan: Plan) -> list[str]:
    sm = plan.gpu.sm
    verdicts = {
        f"{plan.form.name} weights": weight_verdict(plan.form, sm),
        f"{plan.kv_cache} KV cache": kv_verdict(plan.kv_cache, sm),
    }
    return [
        f"unverified: {what} on SM {sm}: {verdict.reason}"
        for what, verdict in verdicts.items()
        if verdict.support is Support.UNVERIFIED
    ]


def _surprises(plan: Plan) -> list[str]:
    said = []
    if plan.form.name == "nvfp4":
        said.append(
            "NVFP4 answers are unmeasured on the compiled path, and a user of 1.2.1 got none of 50 right: "
            "check the answers before you serve it, or take fp8"
        )
    limit = plan.limits.max_num_tokens
    if not plan.paged_context and limit < plan.limits.max_seq_len:
        said.append(
            f"without paged context a prompt is one step: none may be longer than max_num_tokens, {limit}"
        )
    if plan.model.tied_embeddings:
        said.append("the checkpoint has one matrix for embedding and output; the engine is counted with two")
    if plan.is_prequantized and plan.form.name != plan.recommended:
        said.append(f"the checkpoint is {plan.form.name}; recommended for this GPU is {plan.recommended}")
    if plan.quantizes and calibrates_on_cpu(plan):
        said.append("calibration runs on the CPU, very slowly: the GPU is too small for the 16-bit weights")
    if plan.tp > 1:
        said.append("for throughput, one engine a GPU behind a load balancer beats tensor parallelism")
    return said
