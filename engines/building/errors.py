"""What ends a build.

BuildError          expected: the operator has to change something; the message is one line
├── BuildRefused    before anything ran
└── StageFailed     a stage ended badly
"""

from __future__ import annotations

from pathlib import Path

from engines.building.failures import Diagnosis
from engines.errors import EngineError


class BuildError(EngineError):
    """Expected: the operator has to change something. The message is one line."""


class BuildRefused(BuildError):
    """Expected: the build cannot begin."""


class StageFailed(BuildError):
    """Expected: a stage ended badly; the next run begins with it.

    Args:
        stage: its name.
        diagnosis: why, and what to try.
        log: everything that it printed; None where it prints nothing.

    """

    def __init__(self, stage: str, diagnosis: Diagnosis, log: Path | None) -> None:
        where = f" Its log: {log}" if log else ""
        super().__init__(f"stage {stage} failed: {diagnosis.why}. Try: {diagnosis.advice}.{where}")
        self.stage = stage
        self.diagnosis = diagnosis
        self.log = log
