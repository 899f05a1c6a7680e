"""The answer of a diagnosis over HTTP."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from app.diagnosis.values import Code, Diagnosis, Outcome, Severity
from app.results.values import Source


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class FindingOut(_Out):
    """Something that is not as it should be."""

    code: Code
    severity: Annotated[
        Severity, Field(description="critical: use no result; warning: look into it; info: good to know.")
    ]
    title: str
    evidence: Annotated[dict[str, JsonValue], Field(description="The numbers that show it; by code, other fields.")]
    text: Annotated[str, Field(description="What was found, as a sentence.")]
    action: Annotated[str, Field(description="What to do about it.")]


class CheckedOut(_Out):
    """A check that found nothing, or could not be made."""

    code: Code
    outcome: Outcome
    reason: Annotated[str | None, Field(description="Why it could not be made.")]


class DiagnosisOut(_Out):
    """All that is wrong with an experiment and its data, the gravest first, and what was looked at in vain."""

    experiment_id: int
    computed_at: datetime
    complete_until: Annotated[datetime, Field(description="What was ingested before this is in the diagnosis.")]
    source: Source
    findings: list[FindingOut]
    checked: list[CheckedOut]

    @classmethod
    def of(cls, diagnosis: Diagnosis) -> "DiagnosisOut":
        return cls.model_validate(diagnosis)
