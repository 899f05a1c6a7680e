"""Scopes and which of them include others."""

from collections.abc import Iterable
from enum import StrEnum


class Scope(StrEnum):
    """What a token may do."""

    EXPERIMENTS_READ = "experiments:read"
    EXPERIMENTS_WRITE = "experiments:write"
    ASSIGNMENTS = "assignments"
    EVENTS = "events"
    RESULTS = "results"
    ADMIN = "admin"


def granted_by(scopes: Iterable[Scope]) -> frozenset[Scope]:
    """Return the scopes together with those that they include."""
    granted = set(scopes)
    if Scope.ADMIN in granted:
        return frozenset(Scope)
    if Scope.EXPERIMENTS_WRITE in granted:
        granted.add(Scope.EXPERIMENTS_READ)
    return frozenset(granted)
