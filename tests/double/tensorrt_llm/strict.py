from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """A keyword that the library does not know is a ValueError."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)
