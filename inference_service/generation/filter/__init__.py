"""The content filter: rules from a file, asked about prompts and about output before it leaves.

`file.FilePolicy` is the policy there is. It is not imported here, as the libraries that match are wanted
only where a filter is.
"""

from __future__ import annotations

from inference_service.generation.filter.output import Match, OutputFilter
from inference_service.generation.filter.policy import ContentPolicy, PromptVerdict

__all__ = ["ContentPolicy", "Match", "OutputFilter", "PromptVerdict"]
