"""What a build would do, in words and commands that can be copied into a shell."""

from __future__ import annotations

import json

from engines.building.job import Job
from engines.building.stages import Stage, stages
from engines.recipe import Command
from engines.report import wrap


def dry_run(job: Job) -> str:
    """Tell every stage of a job, nothing of which is done.

    Raises:
        BuildRefused: the route is closed for this plan.

    """
    route = job.chosen_route(has_timing_cache=job.timing_cache.is_file())
    planned = stages(job, None)
    parts = [f"{job.plan.model.name} in {job.plan.form.name} for {job.plan.gpu.title}, by {route.name}"]
    parts += [_stage(number, len(planned) + 1, stage) for number, stage in enumerate(planned, 1)]
    parts.append(
        f"[{len(planned) + 1}/{len(planned) + 1}] verify: check the directory and move it to {job.output}"
    )
    if route.program is not None:
        parts.append(f"with this as {job.program}:\n\n{route.program.rstrip()}")
    return "\n\n".join(parts)


def document(job: Job) -> str:
    """Tell the same as a JSON object."""
    route = job.chosen_route(has_timing_cache=job.timing_cache.is_file())
    planned = [{"stage": stage.name, "about": stage.about, "argv": stage.argv} for stage in stages(job, None)]
    told = {"route": route.name, "work": str(job.work), "output": str(job.output), "program": route.program}
    return json.dumps({**told, "stages": planned}, indent=2)


def _stage(number: int, total: int, stage: Stage) -> str:
    head = f"[{number}/{total}] {stage.name}: {stage.about}"
    if stage.argv is None:
        return head
    return f"{head}\n\n    {wrap(Command('build', stage.argv))}"
