"""Which parameters belong to which export."""

from typing import assert_never

from fastapi import Request

from app.core.errors import FieldProblem, Invalid
from app.exports.values import ExportFormat, ExportOf
from app.results.parameters import CONTEXT_PREFIX
from app.results.values import Granularity, Question

_ALWAYS = frozenset({"format", "of"})
_OF_EVENTS = frozenset({"event_type", "start_date", "end_date", "include_overrides", "counted"})
# What they ask for has no place in a table of variants and metrics: it is in the answer alone.
_OF_ANSWER = frozenset({"breakdown", "cohorts", "effect_over_time", "granularity", "planned_sample", "target_mde"})


def refuse_parameters_of_others(
    request: Request, of: ExportOf, form: ExportFormat, question: Question, *, counted: bool
) -> None:
    """Refuse what this export would silently ignore; what asks for what is there anyway is let through.

    Raises:
        Invalid: a parameter belongs to another export, or to another form of this one.
    """
    given = [name for name in dict.fromkeys(request.query_params) if name not in _ALWAYS]
    problems: list[FieldProblem]
    match of:
        case ExportOf.RESULTS:
            problems = _astray([name for name in given if name == "counted"], "is for of=events; remove it")
            if form is not ExportFormat.JSON:
                plain = _plain(question)
                answered = [name for name in given if name in _OF_ANSWER and name not in plain]
                problems += _astray(answered, f"has no place in the table of format={form}; format=json has it")
        case ExportOf.ASSIGNMENTS:
            problems = _astray(given, "of=assignments takes no such parameter; remove it")
        case ExportOf.EVENTS:
            contexts = [name for name in given if name.startswith(CONTEXT_PREFIX)]
            others = [name for name in given if name not in _OF_EVENTS and name not in contexts]
            taken = ", ".join(sorted(_OF_EVENTS))
            problems = _astray(others, f"of=events takes no such parameter, but {taken}, context.<name>")
            if not counted:
                problems += _astray(contexts, "chooses among counted events; remove it, or counted=false")
        case _:
            assert_never(of)
    if problems:
        raise Invalid(problems)


def _plain(question: Question) -> frozenset[str]:
    """Return what asks for no more than a table has."""
    return frozenset(
        name
        for name, is_plain in (
            ("effect_over_time", not question.effect_over_time),
            ("granularity", question.granularity is Granularity.DAY),
        )
        if is_plain
    )


def _astray(names: list[str], detail: str) -> list[FieldProblem]:
    return [{"field": name, "detail": detail} for name in names]
