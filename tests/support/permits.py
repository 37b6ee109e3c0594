"""Takes one permit of an admission, as a request of one choice does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from inference_service.scheduling.admission import Admission, Deadline, Tenant
from lodestream_common.keys import Priority


@asynccontextmanager
async def permit(
    admission: Admission,
    tenant: Tenant,
    deadline: Deadline | None = None,
    priority: Priority = Priority.INTERACTIVE,
) -> AsyncIterator[int]:
    """Wait for a permit and hold it. Yields how many are held then."""
    async with admission.reserve(tenant, 1, deadline, priority) as wait, wait() as running:
        yield running
