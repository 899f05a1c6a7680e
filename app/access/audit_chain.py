"""The chain of the audit log: what of an entry is hashed, and how a chain is recomputed. No I/O.

A trigger in PostgreSQL chains the entries; this recomputes their hashes without it, so that a trigger that was
tampered with does not vouch for itself.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from app.access.values import Break, ChainReport, Flaw

# What the first entry of a chain follows.
GENESIS = bytes(32)


@dataclass(frozen=True, slots=True)
class ChainedEntry:
    """An entry as it is stored; `details` is the text of its jsonb."""

    id: int
    at: datetime
    project_id: int | None
    actor: str
    request_id: str
    action: str
    subject: str
    details: str
    position: int | None
    hash: bytes | None


def content_of(entry: ChainedEntry) -> bytes:
    """Return what of the entry is hashed: a JSON array of its columns as texts, UTF-8.

    Every column is a text, so that no language's way of writing numbers or moments matters.
    """
    columns = [
        None if entry.position is None else str(entry.position),
        str(entry.id),
        entry.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        None if entry.project_id is None else str(entry.project_id),
        entry.actor,
        entry.request_id,
        entry.action,
        entry.subject,
        entry.details,
    ]
    return json.dumps(columns, ensure_ascii=False).encode()


def hash_after(previous: bytes, entry: ChainedEntry) -> bytes:
    return hashlib.sha256(previous + content_of(entry)).digest()


class ChainCheck:
    """Recomputes a chain entry by entry, in the order of their positions, and holds no more than the last hash."""

    def __init__(self, *, remembered: bytes | None = None) -> None:
        self._remembered = remembered
        # A chain without entries is a beginning of every chain.
        self._found = remembered in {None, GENESIS}
        self._last = GENESIS
        self._entries = 0
        self._broken: Break | None = None

    def add(self, entry: ChainedEntry) -> None:
        """Look at the next entry; entries without a position come last."""
        if self._broken is None and (found := self._flaw_of(entry)) is not None:
            self._broken = Break(entry.id, entry.at, *found)
        self._entries += 1
        if entry.hash is not None:
            self._last = entry.hash
            self._found = self._found or entry.hash == self._remembered

    def _flaw_of(self, entry: ChainedEntry) -> tuple[Flaw, str] | None:
        expected = self._entries + 1
        if entry.hash is None or entry.position is None:
            return Flaw.UNCHAINED, f"entry {entry.id} was written past the chain"
        if entry.position > expected:
            missing = entry.position - expected
            return Flaw.MISSING, f"{missing} before entry {entry.id}, from position {expected} on, are gone"
        if entry.position < expected:
            return Flaw.CHANGED, f"entry {entry.id} has the position {entry.position}, which another one has, too"
        if entry.hash != hash_after(self._last, entry):
            return Flaw.CHANGED, f"entry {entry.id}, or the one before it, is not what was hashed"
        return None

    def report(self, *, head_entries: int, head_hash: bytes) -> ChainReport:
        """Compare the end with the chain's stored head, and tell what was found."""
        found = ChainReport(self._entries, self._last if self._entries else None, self._broken)
        if self._broken is not None:
            return found
        if self._entries < head_entries:
            gone = head_entries - self._entries
            return replace(found, first_broken=_at_the_end(Flaw.MISSING, f"the last {gone} of {head_entries} are gone"))
        if (self._entries, self._last) != (head_entries, head_hash):
            detail = f"there are {self._entries} entries, but the chain's head is at {head_entries} with another hash"
            return replace(found, first_broken=_at_the_end(Flaw.BEYOND_HEAD, detail))
        if not self._found:
            detail = "head: no entry has this hash; what it covered was replaced or removed, or it is another chain's"
            return replace(found, first_broken=_at_the_end(Flaw.HEAD_NOT_FOUND, detail))
        return found


def _at_the_end(flaw: Flaw, detail: str) -> Break:
    return Break(None, None, flaw, detail)
